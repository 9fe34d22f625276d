"""Virtual tokens take positions of the model: what does not fit is said before it is loaded."""

import pytest

import fedloom
from fedloom.errors import UserError
from tests.federated_runs import recipe, write_examples


def values(folder, **adapter):
    settings = recipe(write_examples(folder / "words.jsonl"), evaluation={"max_examples": 1}, federation={"rounds": 1})
    settings["model"]["adapter"] = {"kind": "prefix_tuning", **adapter}
    return settings


def test_no_room_for_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr("fedloom.session.load_base", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(UserError) as refused:
        fedloom.run(values(tmp_path, virtual_tokens=490), tmp_path / "run")
    assert "model.adapter.virtual_tokens: 490 and the longest example's" in refused.value.message
    assert refused.value.message.endswith("exceed the model's 512 positions")
    assert refused.value.hint == "set data.max_tokens to 22 or less"
    with pytest.raises(UserError) as refused:
        fedloom.run(values(tmp_path, virtual_tokens=510), tmp_path / "run")
    assert refused.value.hint == "take fewer virtual tokens"


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"virtual_tokens": 0}, "virtual_tokens"),
        ({"hidden_size": 8}, "hidden_size"),
        ({"rank": 8}, "rank"),
        ({"virtual_token": 8}, "virtual_tokens"),
    ],
)
def test_keys_without_a_meaning(tmp_path, adapter, message):
    with pytest.raises(UserError) as refused:
        fedloom.run(values(tmp_path, **adapter), tmp_path / "run")
    assert "model.adapter" in str(refused.value)
    assert message in str(refused.value) + str(refused.value.hint)
