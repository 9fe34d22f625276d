"""Word lists of the pocket tasks, shared by the generator and the pocket model's pretraining text."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(" ".join(phrase.split()) for phrase in text.split(";"))


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((one, two) for one, two in (pair.split("/") for pair in text.split()))


CLIENTS: tuple[str, ...] = _words(
    """
    hospital-north hospital-south clinic-lakeside bank-harbour bank-central insurer-alpine city-archive
    school-riverside university-west retailer-market carrier-coast utility-grid newsroom-daily
    court-registry hotel-garden laboratory-east
    """
)

NAMES: tuple[str, ...] = _words(
    """
    Anna Ben Clara David Emma Felix Grace Hugo Ines Jonas Karin Leo Maria Nina Oscar Paula Quinn Rosa
    Simon Tara Uma Victor Wanda Yusuf Zoe Adam Bella Carl Diana Erik Frida Georg Helen Ivan Julia Kurt
    Laura Martin Nora Otto
    """
)

CITIES: tuple[str, ...] = _words(
    """
    Oslo Paris Rome Madrid Berlin Vienna Prague Lisbon Dublin Athens Warsaw Zurich Geneva Milan Porto
    Lyon Krakow Bergen Hamburg Munich Cairo Tokyo Lima Delhi Boston Denver Dallas Quito Hanoi Seoul
    """
)

ITEMS: tuple[str, ...] = _words(
    """
    lamp chair table sofa mirror carpet clock kettle camera printer jacket guitar ladder bicycle tent
    blanket basket candle helmet suitcase pillow drum vase desk bench radio wallet umbrella scarf heater
    """
)

THINGS: tuple[str, ...] = _words(
    """
    apples books pens coins stamps cups plates cards tickets bottles boxes eggs keys shirts letters bags
    stones shells chairs photos
    """
)

EVENTS: tuple[str, ...] = _words(
    """
    meeting exam concert delivery party visit lesson trial wedding lecture match review
    """
)

DAYS: tuple[str, ...] = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")

MONTHS: tuple[str, ...] = _words(
    """
    January February March April May June July August September October November December
    """
)

# (large unit, small unit, factor, largest count): one large unit holds `factor` small ones.
UNITS: tuple[tuple[str, str, int, int], ...] = (
    ("hours", "minutes", 60, 12),
    ("minutes", "seconds", 60, 12),
    ("days", "hours", 24, 9),
    ("weeks", "days", 7, 12),
    ("years", "months", 12, 12),
    ("kilometres", "metres", 1000, 30),
    ("metres", "centimetres", 100, 30),
    ("kilograms", "grams", 1000, 30),
    ("litres", "millilitres", 1000, 30),
    ("tonnes", "kilograms", 1000, 30),
    ("centimetres", "millimetres", 10, 30),
    ("euros", "cents", 100, 30),
)

SENTIMENT_NOUNS: tuple[str, ...] = _words(
    """
    room staff food view service bed garden music price breakfast film story guide phone screen
    """
)

SENTIMENTS: dict[str, tuple[str, ...]] = {
    "positive": _words(
        """
        lovely great superb gentle friendly charming delightful perfect helpful splendid fresh tasty
        brilliant excellent pleasant wonderful cheerful elegant generous reliable amazing cosy spotless
        polite joyful beautiful fantastic comfortable
        """
    ),
    "negative": _words(
        """
        awful rude dirty broken terrible boring noisy stale horrible nasty gloomy useless bland dreadful
        sloppy shabby disgusting poor hostile faulty annoying miserable smelly ugly unfriendly
        disappointing dull clumsy
        """
    ),
}

TOPICS: dict[str, tuple[str, ...]] = {
    "sport": _words(
        """
        striker league goal coach stadium referee tournament medal sprinter goalkeeper tennis
        """
    ),
    "finance": _words(
        """
        inflation shares dividend loan bond mortgage investor profit currency budget bank
        """
    ),
    "health": _words("vaccine surgeon virus clinic diet nurse allergy therapy patient fever hospital"),
    "weather": _words("storm rain snow drought heatwave thunder frost hail fog wind sunshine"),
    "politics": _words(
        """
        senator election parliament minister vote treaty mayor campaign law embassy party
        """
    ),
    "technology": _words("software robot chip laptop server internet battery satellite code app network"),
}

TRIAGE: dict[str, tuple[str, ...]] = {
    "urgent": _phrases(
        """
        chest pain; a severe burn; heavy bleeding; a stroke; a seizure; a crushed hand; poisoning; a
        gunshot wound; no pulse; a skull fracture; a heart attack; blue lips; a snake bite; trouble
        breathing
        """
    ),
    "soon": _phrases(
        """
        an ear infection; a high fever; a sprained ankle; a deep cut; back pain; vomiting; a migraine;
        an infected wound; a broken toe; kidney pain; a painful rash; a swollen knee; a bad cough; a dog
        bite
        """
    ),
    "routine": _phrases(
        """
        a vaccination; a yearly check; a new prescription; dry skin; a small wart; a vision test; travel
        advice; a diet plan; a blood test; a mild cold; a sick note; hay fever; a hearing test; a weight
        check
        """
    ),
}

# Used in both directions.
OPPOSITES: tuple[tuple[str, str], ...] = _pairs(
    """
    hot/cold big/small fast/slow early/late open/closed full/empty light/dark high/low hard/soft wet/dry
    rich/poor strong/weak young/old loud/quiet near/far left/right inside/outside above/below
    before/after begin/end buy/sell win/lose push/pull always/never day/night summer/winter true/false
    long/short thick/thin wide/narrow clean/dirty cheap/expensive happy/sad brave/afraid deep/shallow
    sharp/blunt rough/smooth north/south east/west front/back top/bottom first/last up/down
    entrance/exit friend/enemy love/hate laugh/cry arrive/leave accept/refuse remember/forget
    import/export increase/decrease maximum/minimum success/failure question/answer public/private
    ancient/modern simple/complex sweet/bitter guilty/innocent war/peace
    """
)

CATEGORIES: dict[str, tuple[str, ...]] = {
    "fruit": _words("apple pear plum cherry banana mango peach lemon grape melon fig apricot"),
    "animal": _words("horse wolf rabbit tiger sheep goat camel zebra otter badger monkey donkey"),
    "tool": _words("hammer saw drill wrench chisel pliers screwdriver axe shovel rake file spade"),
    "vehicle": _words("car bus truck tram van train ferry lorry taxi scooter tractor canoe"),
    "metal": _words("iron copper silver gold zinc lead nickel tin steel bronze brass titanium"),
    "instrument": _words("violin flute trumpet cello harp piano oboe banjo clarinet organ tuba lute"),
    "colour": _words("red blue green yellow purple orange pink brown black white grey violet"),
    "drink": _words("tea coffee milk juice cider cocoa lemonade water beer wine soda rum"),
    "flower": _words("rose tulip lily daisy orchid poppy iris lilac daffodil pansy jasmine carnation"),
    "bird": _words("robin eagle owl crow swan duck heron sparrow falcon stork pigeon raven"),
    "clothing": _words("shirt coat skirt glove sock trousers dress hat boot sweater apron tie"),
}

ACTORS: tuple[str, ...] = _words("nurse clerk teacher driver cook farmer lawyer pilot tailor baker judge waiter")

# Third person present and past.
VERBS: tuple[tuple[str, str], ...] = _pairs(
    """
    checks/checked opens/opened cleans/cleaned paints/painted signs/signed moves/moved finds/found
    sells/sold brings/brought takes/took sends/sent keeps/kept holds/held loses/lost buys/bought
    breaks/broke hides/hid sees/saw gives/gave makes/made leaves/left wants/wanted draws/drew
    closes/closed lifts/lifted steals/stole chooses/chose catches/caught throws/threw forgets/forgot
    """
)

VERB_OBJECTS: tuple[str, ...] = _words(
    """
    box door letter chart map picture bag plate rope stone card coat ticket bottle report parcel
    """
)

WORDS: tuple[str, ...] = _words(
    """
    pen cup lamp book key spoon chair brush coin ring nail bell hat fork shoe box rope card comb soap
    button needle thread paper ink glue stamp ruler bread salt rice sugar butter cheese honey pepper
    """
)
