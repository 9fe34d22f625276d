"""The kinds of adapters, one module each; `registry` is the table of them."""
