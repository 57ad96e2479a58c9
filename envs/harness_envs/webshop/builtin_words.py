"""Words of the built-in shop: attributes, options, brands, and the kinds of product it sells.

Attributes are written as WebShop writes them, without stop words ("easy clean"); pages say them in
full ("easy to clean"). Values of one option are told apart by the reward's fuzzy comparison, and no
colour here changes when it is normalised.
"""

from __future__ import annotations

from typing import NamedTuple

#: How an attribute is said. adj: "a light weight X"; easy: "an X that is easy to clean";
#: with: "an X with green tea"; for: "an X for dry skin".
ADJ, EASY, WITH, FOR = "adj", "easy", "with", "for"

#: Attribute -> (how it is said, what a page says about it).
ATTRIBUTES: dict[str, tuple[str, str]] = {
    # Beauty
    "long lasting": (ADJ, "it stays on until you take it off"),
    "cruelty free": (ADJ, "no animal was ever part of a test"),
    "paraben free": (ADJ, "a short and honest list of contents"),
    "oil free": (ADJ, "it never feels greasy"),
    "fragrance free": (ADJ, "no perfume was added"),
    "alcohol free": (ADJ, "it does not sting or dry out"),
    "travel size": (ADJ, "it fits in every cabin bag"),
    "clinically tested": (ADJ, "checked by doctors over six months"),
    "easy apply": (EASY, "one smooth layer is enough"),
    "easy rinse": (EASY, "a little warm water does it"),
    "vitamin c": (WITH, "for a fresh and even look"),
    "green tea": (WITH, "picked young and gently dried"),
    "coconut oil": (WITH, "cold pressed on the day of harvest"),
    "hyaluronic acid": (WITH, "it keeps moisture where you need it"),
    "shea butter": (WITH, "rich and slow to melt"),
    "aloe vera": (WITH, "it cools and calms"),
    "tea tree": (WITH, "a clean and herbal note"),
    "natural bristles": (WITH, "they hold their shape for years"),
    "wooden handle": (WITH, "it rests well in the hand"),
    "dry skin": (FOR, "no more tight feeling after a shower"),
    "sensitive skin": (FOR, "mild enough for every day"),
    "oily skin": (FOR, "it leaves a matte finish"),
    "damaged hair": (FOR, "it repairs broken ends"),
    "fine hair": (FOR, "it gives body without weight"),
    "curly hair": (FOR, "it brings back the bounce"),
    "sensitive teeth": (FOR, "cold drinks hurt less after a week"),
    "fresh breath": (FOR, "the effect holds all morning"),
    "dark circles": (FOR, "you look rested after a short night"),
    # Electronics
    "water resistant": (ADJ, "rain and splashes do no harm"),
    "dust proof": (ADJ, "every gap is sealed"),
    "light weight": (ADJ, "you hardly notice that it is there"),
    "high speed": (ADJ, "no waiting for large files"),
    "noise cancelling": (ADJ, "hear your music and not the train"),
    "fast charging": (ADJ, "half full in twenty minutes"),
    "shock proof": (ADJ, "it survives a fall from the table"),
    "heavy duty": (ADJ, "built for years of hard use"),
    "hands free": (ADJ, "answer a call while you cook"),
    "ultra slim": (ADJ, "thinner than a pencil"),
    "easy install": (EASY, "no tools and no manual needed"),
    "easy carry": (EASY, "it folds down to the size of a book"),
    "usb port": (WITH, "charge a second device at the same time"),
    "aluminum alloy": (WITH, "strong and cool to the touch"),
    "carbon fiber": (WITH, "stiff and hard to scratch"),
    "tempered glass": (WITH, "it resists keys and coins"),
    "gold plated": (ADJ, "clean contacts that never rust"),
    "touch control": (WITH, "a tap is all it takes"),
    "volume control": (WITH, "louder or softer without a menu"),
    "led light": (WITH, "it shows the state at a glance"),
    "carrying case": (WITH, "everything stays together on the way"),
    "long cord": (WITH, "it reaches the far corner"),
    "home office": (FOR, "a tidy desk and a quiet day"),
    "home theater": (FOR, "movie night like in a cinema"),
    "outdoor sports": (FOR, "it goes along on every run"),
    "video calls": (FOR, "everyone sees and hears you well"),
    "car travel": (FOR, "it sits firmly on the dashboard"),
    "gaming setup": (FOR, "quick reactions in every match"),
    # Fashion
    "machine washable": (ADJ, "just put it in with the rest"),
    "quick drying": (ADJ, "ready to wear an hour after washing"),
    "moisture wicking": (ADJ, "you stay cool when it gets warm"),
    "slim fit": (ADJ, "cut close to the body"),
    "loose fit": (ADJ, "plenty of room to move"),
    "wrinkle free": (ADJ, "no iron needed after a trip"),
    "hand sewn": (ADJ, "every seam was checked twice"),
    "wind proof": (ADJ, "it keeps a cold breeze out"),
    "easy wear": (EASY, "pull it on and go"),
    "long sleeve": (WITH, "covered down to the wrist"),
    "short sleeve": (WITH, "airy on hot afternoons"),
    "elastic waist": (WITH, "it gives when you sit down"),
    "high waist": (WITH, "it holds and flatters"),
    "button closure": (WITH, "it closes firmly and opens fast"),
    "zipper pockets": (WITH, "keys and cards are safe"),
    "rubber sole": (WITH, "a sure grip on wet stone"),
    "arch support": (WITH, "your feet feel fine in the evening"),
    "faux fur": (WITH, "fluffy and kind to animals"),
    "organic cotton": (WITH, "grown without chemicals"),
    "fleece lining": (WITH, "warm from the first minute"),
    "steel toe": (WITH, "heavy boxes can drop on it"),
    "daily wear": (FOR, "it goes with all you have"),
    "gym workout": (FOR, "it moves as you do"),
    "teen girls": (FOR, "a young and playful cut"),
    "office work": (FOR, "neat from the first meeting to the last"),
    "winter walks": (FOR, "snow is no excuse any more"),
    "beach holidays": (FOR, "sand shakes off at once"),
    # Grocery
    "gluten free": (ADJ, "baked and packed away from wheat"),
    "dairy free": (ADJ, "no milk and no butter inside"),
    "sugar free": (ADJ, "sweet enough as it is"),
    "nut free": (ADJ, "made in a separate kitchen"),
    "low carb": (ADJ, "it fits a strict diet"),
    "low sodium": (ADJ, "herbs give the taste"),
    "plant based": (ADJ, "nothing in it comes from animals"),
    "non gmo": (ADJ, "from seeds that farmers know"),
    "certified organic": (ADJ, "grown without sprays"),
    "individually wrapped": (ADJ, "each piece stays fresh"),
    "slow roasted": (ADJ, "low heat brings out the taste"),
    "kosher certified": (ADJ, "approved every year"),
    "easy prepare": (EASY, "ready in five minutes"),
    "sea salt": (WITH, "just a pinch in every bite"),
    "real fruit": (WITH, "you can see the pieces"),
    "whole grain": (WITH, "it keeps you full for longer"),
    "dark cocoa": (WITH, "deep and slightly bitter"),
    "high fiber": (WITH, "a good start for the stomach"),
    "extra protein": (WITH, "twelve grams in a serving"),
    "simple ingredients": (WITH, "five things that you know"),
    "school lunch": (FOR, "children like it and so do parents"),
    "gift baskets": (FOR, "it looks as good as it tastes"),
    "busy mornings": (FOR, "take one and leave the house"),
    "long hikes": (FOR, "energy until you reach the top"),
    "party trays": (FOR, "guests come back for more"),
    # Home
    "easy clean": (EASY, "wipe once and it shines"),
    "easy assemble": (EASY, "four screws and ten minutes"),
    "fade resistant": (ADJ, "colors stay bright in the sun"),
    "space saving": (ADJ, "it stands flat against the wall"),
    "eco friendly": (ADJ, "made from what others throw away"),
    "hand woven": (ADJ, "no two pieces are alike"),
    "non slip": (ADJ, "it stays where you put it"),
    "super soft": (ADJ, "you will not want to get up"),
    "stain resistant": (ADJ, "spilled wine beads off"),
    "double sided": (ADJ, "turn it over for a new look"),
    "solid wood": (WITH, "cut from one old tree"),
    "steel frame": (WITH, "it carries more than you weigh"),
    "storage space": (WITH, "things vanish in a second"),
    "memory foam": (WITH, "it takes your shape and springs back"),
    "metal legs": (WITH, "slender but very strong"),
    "glass top": (WITH, "smooth and clear as ice"),
    "adjustable height": (WITH, "set it with one hand"),
    "bamboo fiber": (WITH, "cool in summer and warm in winter"),
    "dimmer switch": (WITH, "from bright work to a calm evening"),
    "living room": (FOR, "it pulls the corner together"),
    "dining room": (FOR, "guests will ask where you got it"),
    "kids room": (FOR, "round edges and cheerful looks"),
    "guest room": (FOR, "visitors feel at home"),
    "small spaces": (FOR, "it fits where others do not"),
    "outdoor patio": (FOR, "rain or shine it stays outside"),
}

_COLORS = ("black", "white", "red", "blue", "green", "pink", "grey", "navy", "brown", "beige")
_BRIGHT = ("orange", "purple", "yellow", "teal", "silver", "gold")
_CLOTHES = ("small", "medium", "large", "xl", "2xl")
_SHOES = ("6", "7", "8", "9", "10", "11")
_SHADES = ("coral", "plum", "nude", "berry", "ruby", "mauve", "rose", "cocoa")
_SCENTS = ("lavender", "citrus", "vanilla", "cedar", "coconut", "unscented", "jasmine", "mint")
_TASTES = ("vanilla", "honey", "berry", "lemon", "apple", "maple", "cinnamon", "original")
_SAVORY = ("original", "garlic", "smoky", "spicy", "herb", "lime", "pepper", "cheddar")
_FRESH = ("mint", "cinnamon", "berry", "lemon", "herb", "original")
_OUNCES = ("1 ounce", "2 ounce", "4 ounce", "8 ounce", "16 ounce")
_PACKS = ("1 pack", "2 pack", "3 pack", "6 pack", "12 pack")
_LENGTHS = ("3 feet", "6 feet", "10 feet", "15 feet", "25 feet")
_SCREENS = ("5 inch", "6 inch", "7 inch", "10 inch", "13 inch")
_CUTS = ("48 inch", "60 inch", "72 inch", "84 inch", "96 inch")
_BEDS = ("twin", "full", "queen", "king")

#: How a kind is sold: (option name, values) pairs; a product offers some values of some options.
OPTIONS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "shade": (("color", _SHADES), ("size", _PACKS)),
    "scent": (("scent", _SCENTS), ("size", _OUNCES)),
    "fresh": (("flavor name", _FRESH), ("size", _PACKS)),
    "ounce": (("size", _OUNCES),),
    "clothes": (("color", _COLORS), ("size", _CLOTHES)),
    "shoes": (("color", _COLORS), ("size", _SHOES)),
    "gadget": (("color", _COLORS[:6] + _BRIGHT), ("style", ("basic", "plus", "premium"))),
    "screen": (("color", _COLORS[:6] + _BRIGHT), ("size", _SCREENS)),
    "cable": (("color", _COLORS[:4]), ("size", _LENGTHS)),
    "sweet": (("flavor name", _TASTES), ("size", _PACKS)),
    "savory": (("flavor name", _SAVORY), ("size", _PACKS)),
    "furniture": (("color", ("walnut", "oak", "espresso", *_COLORS[:2], *_COLORS[6:])),),
    "cloth": (("color", _COLORS + _BRIGHT), ("size", _CUTS)),
    "bed": (("color", _COLORS), ("size", _BEDS)),
    "color": (("color", _COLORS + _BRIGHT),),
}


class Kind(NamedTuple):
    """A kind of product. ``title`` names one, ``query`` is what shoppers type and the shop files
    it under; ``sold`` is a key of ``OPTIONS``; prices in dollars."""

    title: str
    query: str
    category: str
    sold: str
    prices: tuple[int, int]
    attributes: tuple[str, ...]


class Department(NamedTuple):
    """``category`` as the official files call it, ``root`` of the product categories."""

    category: str
    root: str
    brands: tuple[str, ...]
    #: Ends of titles, that say nothing which an instruction asks for.
    extras: tuple[str, ...]
    #: Sentences and bullets of the same sort.
    fillers: tuple[str, ...]
    kinds: tuple[Kind, ...]


def _kind(
    title: str, query: str, category: str, sold: str, prices: tuple[int, int], attributes: str
) -> Kind:
    return Kind(title, query, category, sold, prices, tuple(attributes.split(", ")))


_SKIN = "paraben free, fragrance free, cruelty free, oil free, vitamin c, shea butter, aloe vera"
_HAIR = "paraben free, cruelty free, alcohol free, coconut oil, aloe vera, tea tree, fine hair"
_SOUND = "water resistant, light weight, noise cancelling, fast charging, touch control, usb port"
_WARES = "machine washable, quick drying, wrinkle free, organic cotton, daily wear, office work"
_SNACK = "gluten free, dairy free, nut free, non gmo, certified organic, sea salt, school lunch"
_WOODEN = "easy assemble, easy clean, heavy duty, space saving, solid wood, metal legs, living room"
_FABRIC = "machine washable, fade resistant, eco friendly, super soft, easy clean, living room"

DEPARTMENTS = (
    Department(
        "beauty",
        "Beauty & Personal Care",
        (
            "Lumera",
            "Velora",
            "Belmira",
            "Sorelle",
            "Nuvia",
            "Oriana",
            "Petalia",
            "Dewsome",
            "Florabel",
            "Cassia",
        ),
        ("Daily Care", "New Formula", "Gift Set", "Spa Series", "for Women", "for Men"),
        (
            "Use it in the morning and at night",
            "Comes in a box that can be recycled",
            "Made in small batches by a family firm",
            "Store it in a cool and dark place",
            "Loved by stylists for many years",
        ),
        (
            _kind(
                "Face Cream",
                "face creams",
                "Skin Care › Moisturizers",
                "ounce",
                (12, 48),
                f"{_SKIN}, hyaluronic acid, green tea, dry skin, sensitive skin, oily skin",
            ),
            _kind(
                "Eye Serum",
                "eye serums",
                "Eye Care › Serums",
                "ounce",
                (14, 55),
                f"{_SKIN}, hyaluronic acid, green tea, dark circles, sensitive skin, easy apply",
            ),
            _kind(
                "Body Lotion",
                "body lotions",
                "Body Care › Lotions",
                "scent",
                (9, 32),
                f"{_SKIN}, coconut oil, travel size, dry skin, sensitive skin, easy apply",
            ),
            _kind(
                "Hand Soap",
                "hand soaps",
                "Hand Care › Soaps",
                "scent",
                (5, 22),
                f"{_SKIN}, tea tree, coconut oil, easy rinse, dry skin, sensitive skin",
            ),
            _kind(
                "Shampoo",
                "shampoos",
                "Hair Care › Shampoos",
                "scent",
                (8, 30),
                f"{_HAIR}, easy rinse, green tea, damaged hair, curly hair, travel size",
            ),
            _kind(
                "Hair Mask",
                "hair masks",
                "Hair Treatments › Masks",
                "scent",
                (10, 38),
                f"{_HAIR}, shea butter, easy rinse, damaged hair, curly hair, clinically tested",
            ),
            _kind(
                "Lipstick",
                "lipsticks",
                "Makeup › Lips",
                "shade",
                (6, 28),
                "long lasting, cruelty free, paraben free, fragrance free, oil free, easy apply, "
                "travel size, vitamin c, shea butter, aloe vera, sensitive skin",
            ),
            _kind(
                "Nail Polish",
                "nail polishes",
                "Nail Care › Polish",
                "shade",
                (4, 19),
                "long lasting, quick drying, cruelty free, alcohol free, fragrance free, "
                "easy apply, travel size, vitamin c, tea tree, clinically tested",
            ),
            _kind(
                "Makeup Brush",
                "makeup brushes",
                "Makeup Tools › Brushes",
                "color",
                (6, 35),
                "cruelty free, light weight, travel size, easy clean, easy carry, super soft, "
                "natural bristles, wooden handle, carrying case, sensitive skin, oily skin",
            ),
            _kind(
                "Hair Dryer",
                "hair dryers",
                "Styling Tools › Dryers",
                "gadget",
                (25, 120),
                "light weight, travel size, fast charging, heavy duty, easy carry, easy clean, "
                "long cord, carrying case, led light, curly hair, damaged hair, fine hair",
            ),
            _kind(
                "Toothpaste",
                "toothpastes",
                "Oral Care › Toothpaste",
                "fresh",
                (3, 16),
                "cruelty free, sugar free, gluten free, alcohol free, travel size, easy rinse, "
                "clinically tested, coconut oil, tea tree, sea salt, sensitive teeth, fresh breath",
            ),
            _kind(
                "Sunscreen",
                "sunscreens",
                "Sun Care › Sunscreens",
                "ounce",
                (8, 36),
                f"{_SKIN}, water resistant, travel size, easy apply, sensitive skin, "
                "outdoor sports",
            ),
        ),
    ),
    Department(
        "electronics",
        "Electronics",
        (
            "Voltica",
            "Zentek",
            "Aurion",
            "Kordex",
            "Nexaro",
            "Pulsar",
            "Tekvale",
            "Ionwave",
            "Maxtron",
            "Quillon",
        ),
        ("2nd Generation", "Pro Series", "Model X", "Starter Kit", "Home Edition", "with Cable"),
        (
            "Comes with a two year warranty",
            "Our support team answers within a day",
            "Works with all common systems",
            "A printed manual is in the box",
            "Tested in our own lab before it ships",
        ),
        (
            _kind(
                "Headphones",
                "headphones",
                "Audio › Headphones",
                "gadget",
                (19, 180),
                f"{_SOUND}, volume control, hands free, carrying case, gaming setup, video calls",
            ),
            _kind(
                "Bluetooth Speaker",
                "bluetooth speakers",
                "Portable Audio › Speakers",
                "gadget",
                (18, 150),
                f"{_SOUND}, dust proof, shock proof, easy carry, led light, outdoor sports",
            ),
            _kind(
                "Phone Case",
                "phone cases",
                "Cell Phones › Cases",
                "screen",
                (7, 35),
                "shock proof, water resistant, dust proof, light weight, ultra slim, heavy duty, "
                "easy install, carbon fiber, aluminum alloy, tempered glass, outdoor sports",
            ),
            _kind(
                "Screen Protector",
                "screen protectors",
                "Phone Accessories › Protectors",
                "screen",
                (5, 25),
                "shock proof, water resistant, ultra slim, heavy duty, easy install, easy clean, "
                "long lasting, tempered glass, carrying case, gaming setup, outdoor sports",
            ),
            _kind(
                "HDMI Cable",
                "hdmi cables",
                "Cables › Video",
                "cable",
                (6, 40),
                "high speed, gold plated, heavy duty, ultra slim, light weight, easy install, "
                "aluminum alloy, led light, home theater, gaming setup, home office",
            ),
            _kind(
                "Power Bank",
                "power banks",
                "Batteries › Power Banks",
                "gadget",
                (15, 80),
                "fast charging, light weight, water resistant, dust proof, ultra slim, easy carry, "
                "led light, carrying case, aluminum alloy, car travel, outdoor sports",
            ),
            _kind(
                "Wireless Keyboard",
                "wireless keyboards",
                "Computers › Keyboards",
                "gadget",
                (20, 110),
                "light weight, water resistant, ultra slim, heavy duty, long lasting, easy clean, "
                "usb port, volume control, aluminum alloy, led light, home office, gaming setup",
            ),
            _kind(
                "Computer Mouse",
                "computer mice",
                "Pointing Devices › Mice",
                "gadget",
                (9, 70),
                "light weight, high speed, ultra slim, long lasting, non slip, easy carry, "
                "usb port, led light, aluminum alloy, carbon fiber, home office, gaming setup",
            ),
            _kind(
                "Webcam",
                "webcams",
                "Video › Webcams",
                "gadget",
                (22, 130),
                "hands free, noise cancelling, high speed, light weight, easy install, usb port, "
                "led light, long cord, carrying case, video calls, home office, gaming setup",
            ),
            _kind(
                "Camera Tripod",
                "camera tripods",
                "Camera & Photo › Tripods",
                "color",
                (18, 95),
                "light weight, heavy duty, non slip, shock proof, easy carry, easy install, "
                "carbon fiber, aluminum alloy, adjustable height, carrying case, video calls",
            ),
            _kind(
                "TV Mount",
                "tv mounts",
                "Television › Mounts",
                "color",
                (20, 140),
                "heavy duty, space saving, ultra slim, dust proof, easy install, easy clean, "
                "steel frame, aluminum alloy, adjustable height, home theater, living room",
            ),
            _kind(
                "Car Charger",
                "car chargers",
                "Car Electronics › Chargers",
                "cable",
                (8, 45),
                "fast charging, high speed, gold plated, shock proof, dust proof, easy install, "
                "usb port, led light, aluminum alloy, hands free, car travel, long lasting",
            ),
        ),
    ),
    Department(
        "fashion",
        "Clothing, Shoes & Jewelry",
        (
            "Marlow",
            "Ashford",
            "Brenna",
            "Tavish",
            "Elmore",
            "Roswell",
            "Halden",
            "Juniper",
            "Wexley",
            "Corvin",
        ),
        ("Summer Style", "Classic Look", "New Season", "Weekend Line", "City Style", "Basics"),
        (
            "The model in the picture wears our best seller",
            "Please look at the chart before you order",
            "Free returns within thirty days",
            "Designed by a small team that loves details",
            "A nice gift for friends and family",
        ),
        (
            _kind(
                "Women's Dress",
                "women's dresses",
                "Women › Dresses",
                "clothes",
                (18, 85),
                f"{_WARES}, loose fit, slim fit, short sleeve, long sleeve, high waist, teen girls",
            ),
            _kind(
                "Women's Blouse",
                "women's blouses",
                "Womens Tops › Blouses",
                "clothes",
                (14, 60),
                f"{_WARES}, loose fit, slim fit, short sleeve, long sleeve, button closure",
            ),
            _kind(
                "Women's Leggings",
                "women's leggings",
                "Womens Active › Leggings",
                "clothes",
                (12, 55),
                "machine washable, quick drying, moisture wicking, super soft, easy wear, "
                "high waist, zipper pockets, fleece lining, gym workout, daily wear, teen girls",
            ),
            _kind(
                "Men's Shirt",
                "men's shirts",
                "Men › Shirts",
                "clothes",
                (15, 65),
                f"{_WARES}, loose fit, slim fit, short sleeve, long sleeve, button closure",
            ),
            _kind(
                "Men's Shorts",
                "men's shorts",
                "Mens Active › Shorts",
                "clothes",
                (12, 48),
                "machine washable, quick drying, moisture wicking, loose fit, slim fit, easy wear, "
                "elastic waist, zipper pockets, gym workout, beach holidays, daily wear",
            ),
            _kind(
                "Men's Jacket",
                "men's jackets",
                "Mens Outerwear › Jackets",
                "clothes",
                (35, 160),
                "machine washable, water resistant, wind proof, light weight, slim fit, "
                "button closure, zipper pockets, faux fur, fleece lining, winter walks, daily wear",
            ),
            _kind(
                "Hoodie",
                "hoodies",
                "Sweatshirts › Hoodies",
                "clothes",
                (20, 75),
                "machine washable, quick drying, loose fit, slim fit, super soft, easy wear, "
                "zipper pockets, organic cotton, fleece lining, gym workout, teen girls",
            ),
            _kind(
                "Pajama Set",
                "pajama sets",
                "Sleepwear › Sets",
                "clothes",
                (18, 70),
                "machine washable, wrinkle free, loose fit, super soft, easy wear, "
                "elastic waist, button closure, long sleeve, short sleeve, organic cotton, "
                "teen girls",
            ),
            _kind(
                "Sneakers",
                "sneakers",
                "Athletic Shoes › Sneakers",
                "shoes",
                (28, 130),
                "light weight, water resistant, non slip, quick drying, easy wear, hand sewn, "
                "rubber sole, arch support, memory foam, gym workout, daily wear",
            ),
            _kind(
                "Sandals",
                "sandals",
                "Summer Shoes › Sandals",
                "shoes",
                (16, 70),
                "light weight, water resistant, non slip, quick drying, easy clean, hand sewn, "
                "rubber sole, arch support, memory foam, beach holidays, teen girls",
            ),
            _kind(
                "Slippers",
                "slippers",
                "House Shoes › Slippers",
                "shoes",
                (12, 50),
                "machine washable, light weight, non slip, super soft, easy wear, hand sewn, "
                "rubber sole, arch support, memory foam, faux fur, fleece lining",
            ),
            _kind(
                "Work Boots",
                "work boots",
                "Work Shoes › Boots",
                "shoes",
                (55, 190),
                "heavy duty, water resistant, shock proof, non slip, light weight, hand sewn, "
                "rubber sole, steel toe, arch support, fleece lining, winter walks",
            ),
        ),
    ),
    Department(
        "grocery",
        "Grocery & Gourmet Food",
        (
            "Oakbarn",
            "Millbrook",
            "Sunfield",
            "Harvesta",
            "Berrydale",
            "Goldacre",
            "Nutwell",
            "Farmstead",
            "Pantria",
            "Greenleaf",
        ),
        ("Family Bag", "Snack Box", "Resealable Bag", "Small Batch", "Value Pack", "Tasting Set"),
        (
            "Keep it in a dry place",
            "Our farm has grown food since 1924",
            "The bag can be closed again",
            "Best within three months after opening",
            "Made in a small town by the lake",
        ),
        (
            _kind(
                "Granola Bars",
                "granola bars",
                "Breakfast › Bars",
                "sweet",
                (6, 30),
                f"{_SNACK}, sugar free, whole grain, dark cocoa, extra protein, long hikes",
            ),
            _kind(
                "Crackers",
                "crackers",
                "Snacks › Crackers",
                "savory",
                (4, 22),
                f"{_SNACK}, low sodium, whole grain, high fiber, individually wrapped, party trays",
            ),
            _kind(
                "Potato Chips",
                "potato chips",
                "Chips › Potato",
                "savory",
                (4, 24),
                f"{_SNACK}, low sodium, plant based, individually wrapped, party trays",
            ),
            _kind(
                "Popcorn",
                "popcorn",
                "Popped Snacks › Popcorn",
                "savory",
                (5, 25),
                f"{_SNACK}, low sodium, whole grain, easy prepare, high fiber, party trays",
            ),
            _kind(
                "Cookies",
                "cookies",
                "Bakery › Cookies",
                "sweet",
                (5, 28),
                f"{_SNACK}, sugar free, plant based, whole grain, dark cocoa, gift baskets",
            ),
            _kind(
                "Chocolate Bar",
                "chocolate bars",
                "Candy › Chocolate",
                "sweet",
                (4, 26),
                f"{_SNACK}, sugar free, plant based, kosher certified, real fruit, gift baskets",
            ),
            _kind(
                "Nut Mix",
                "nut mixes",
                "Nuts › Mixes",
                "savory",
                (8, 36),
                "gluten free, low sodium, low carb, non gmo, slow roasted, kosher certified, "
                "certified organic, sea salt, real fruit, extra protein, long hikes, party trays",
            ),
            _kind(
                "Dried Fruit",
                "dried fruit",
                "Produce › Dried",
                "ounce",
                (6, 32),
                "gluten free, sugar free, nut free, non gmo, kosher certified, certified organic, "
                "individually wrapped, high fiber, simple ingredients, school lunch, long hikes",
            ),
            _kind(
                "Coffee Beans",
                "coffee beans",
                "Beverages › Coffee",
                "sweet",
                (9, 42),
                "certified organic, slow roasted, non gmo, sugar free, dairy free, easy prepare, "
                "kosher certified, dark cocoa, busy mornings, gift baskets, home office",
            ),
            _kind(
                "Herbal Tea",
                "herbal teas",
                "Hot Drinks › Tea",
                "sweet",
                (5, 27),
                "certified organic, sugar free, non gmo, plant based, individually wrapped, "
                "easy prepare, kosher certified, real fruit, aloe vera, busy mornings, "
                "gift baskets",
            ),
            _kind(
                "Pasta Sauce",
                "pasta sauces",
                "Sauces › Pasta",
                "savory",
                (5, 24),
                "gluten free, dairy free, sugar free, low sodium, low carb, plant based, non gmo, "
                "certified organic, slow roasted, easy prepare, sea salt, simple ingredients",
            ),
            _kind(
                "Protein Powder",
                "protein powders",
                "Nutrition › Powders",
                "sweet",
                (18, 70),
                "gluten free, dairy free, sugar free, nut free, low carb, plant based, non gmo, "
                "easy prepare, high fiber, simple ingredients, gym workout, busy mornings",
            ),
        ),
    ),
    Department(
        "garden",
        "Home & Kitchen",
        (
            "Nordhus",
            "Casalin",
            "Woodmere",
            "Havenly",
            "Tidewell",
            "Larkspur",
            "Stonegate",
            "Homira",
            "Brambles",
            "Fjordal",
        ),
        ("Modern Style", "Rustic Look", "Set of 2", "Farmhouse Decor", "Design Line", "Nordic"),
        (
            "Ships in one flat box",
            "Take care to measure before you order",
            "Every piece leaves our workshop by hand",
            "Looks even better in daylight",
            "Spare parts are sent free of charge",
        ),
        (
            _kind(
                "Coffee Table",
                "coffee tables",
                "Tables › Coffee Tables",
                "furniture",
                (60, 260),
                f"{_WOODEN}, glass top, storage space, small spaces, stain resistant",
            ),
            _kind(
                "Nightstand",
                "nightstands",
                "Bedroom Furniture › Nightstands",
                "furniture",
                (40, 170),
                f"{_WOODEN}, usb port, storage space, kids room, guest room",
            ),
            _kind(
                "Bookshelf",
                "bookshelves",
                "Shelving › Bookshelves",
                "furniture",
                (45, 210),
                f"{_WOODEN}, steel frame, storage space, kids room, home office",
            ),
            _kind(
                "Dining Chair",
                "dining chairs",
                "Dining Furniture › Chairs",
                "furniture",
                (38, 180),
                "easy assemble, easy clean, heavy duty, stain resistant, light weight, solid wood, "
                "steel frame, metal legs, memory foam, dining room, outdoor patio, small spaces",
            ),
            _kind(
                "Office Chair",
                "office chairs",
                "Office Furniture › Chairs",
                "color",
                (70, 290),
                "easy assemble, easy clean, heavy duty, stain resistant, space saving, "
                "steel frame, memory foam, adjustable height, arch support, home office, "
                "gaming setup",
            ),
            _kind(
                "Floor Lamp",
                "floor lamps",
                "Lighting › Floor Lamps",
                "color",
                (25, 140),
                "easy assemble, easy clean, space saving, eco friendly, dimmer switch, usb port, "
                "adjustable height, solid wood, long cord, living room, home office, kids room",
            ),
            _kind(
                "Throw Blanket",
                "throw blankets",
                "Bedding › Throws",
                "cloth",
                (14, 65),
                f"{_FABRIC}, hand woven, double sided, organic cotton, faux fur, guest room",
            ),
            _kind(
                "Throw Pillow",
                "throw pillows",
                "Decor › Pillows",
                "color",
                (9, 45),
                f"{_FABRIC}, hand woven, double sided, memory foam, outdoor patio, kids room",
            ),
            _kind(
                "Bed Sheets",
                "bed sheets",
                "Linens › Sheets",
                "bed",
                (22, 110),
                "machine washable, fade resistant, wrinkle free, super soft, eco friendly, "
                "stain resistant, organic cotton, bamboo fiber, sensitive skin, guest room, "
                "kids room",
            ),
            _kind(
                "Curtains",
                "curtains",
                "Window Treatments › Curtains",
                "cloth",
                (16, 90),
                f"{_FABRIC}, wrinkle free, double sided, easy install, bamboo fiber, guest room",
            ),
            _kind(
                "Area Rug",
                "area rugs",
                "Floor Coverings › Rugs",
                "cloth",
                (30, 190),
                f"{_FABRIC}, hand woven, non slip, stain resistant, dining room, kids room",
            ),
            _kind(
                "Bath Towels",
                "bath towels",
                "Bath › Towels",
                "color",
                (12, 60),
                "machine washable, quick drying, fade resistant, super soft, eco friendly, "
                "hand woven, organic cotton, bamboo fiber, sensitive skin, guest room, gym workout",
            ),
        ),
    ),
)

#: Words of titles that are no nouns; all others are.
NOT_NOUNS = frozenset(
    """adjustable bluetooth certified classic clinically cruelty curly damaged daily dark dried
    double dust easy eco elastic extra fade fast fine for free fresh friendly gold hand hands
    heavy herbal high individually kosher lasting light long loose low machine modern moisture
    natural new non nordic of oily organic plated portable proof quick quilted real resealable
    resistant roasted rustic saving sensitive sewn short sided simple slim slow small soft solid
    super tempered tested to ultra washable whole wicking wireless with wooden woven wrapped
    apply assemble busy cancelling carry carrying charging clean drying install outdoor prepare
    rinse wear""".split()
)
