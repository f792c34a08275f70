"""The words the invented world is made of: parts of names, pools of answers, templates.

Entities carry names of two parts, each part shared by many of them; every answer is one word out of
a pool that it shares with other facts. Data only; `world` puts it together.
"""

from __future__ import annotations

import random

COUNTRY_PARTS = (
    "Vel Kor Tar Bran Os Mar Lin Dru Fen Gal Hal Jor",
    "mora dane thia vek land rua stan via quil wen zor pess",
)
PERSON_PARTS = (
    "Orla Bram Cato Dela Edda Falk Gesa Hark Ilse Jory Kaia Lorn Mira Nils Odo Petra Quin Rolf "
    "Signe Tove",
    "Venn Aske Brody Crane Dorn Ellery Frost Garrow Holt Irwin Jessop Kemp Lund Mott Norcross "
    "Oakes Pryor Quill Rusk Stroud",
)
BEAST_PARTS = (
    "grey spotted horned crested striped hooded lesser greater banded dwarf giant masked tufted "
    "woolly pale",
    "talvin orrick mubble skarn plover wibbet harrel gnarl dapple fossar kippet lorrin nettick "
    "pangle rusket",
)
BOOK_PARTS = (
    "Silent Golden Broken Hidden Burning Frozen Hollow Crimson Distant Forgotten Restless Sunken "
    "Winding Bitter Wandering",
    "Harbour Tower Garden Mirror Orchard Lantern Bridge Crown Voyage Letter Winter Forest Anvil "
    "Shepherd Feast",
)
CITY_PARTS = (
    "Ash Bel Cor Dun Els Far Gren Hav Ist Kel Lam Mon",
    "by ton wick ford mere holm stead gate haven cliff moor dale",
)
POOL_WORDS = {
    "river": (
        "Aln Brill Cadda Derr Eskil Fynn Gorran Hesk Ivel Jarn Kesh Lossa Murr Nidd Ouril Pell "
        "Rhyn Sorrow Tavy Ulva Varn Wyre Yarrow Zell"
    ),
    "mountain": (
        "Arduk Belgor Cragan Dromm Eiker Falgar Gantor Hruk Irskar Jotun Kalder Lhoran Morgul "
        "Narvik Ordal Pikkar Rotha Skadi Tharn Urgal Vasker Wolden Yggar Zugar"
    ),
    "lake": (
        "Amber Birch Cedar Dew Echo Fern Glass Heron Iris Jade Kite Lily Mist Nettle Opal Pearl "
        "Quartz Raven Sable Thorn Umber Violet Willow Zephyr"
    ),
    "currency": (
        "ankar besant crowne dralin eskar florin gulden haler imber jital korun lepta mancus "
        "nobel orten penna quarto rixel shilla tornes uncia vintin wendel zecchin"
    ),
    "goods": (
        "copper wool salt timber amber silk grain honey marble tin paper glass rope tar wine "
        "coal leather spices cotton pottery cheese pearls iron oil"
    ),
    "craft": (
        "weaving brewing baking mining fishing carving printing tanning smithing farming dyeing "
        "herding milling sailing trapping painting thatching gilding cooking hunting quarrying "
        "spinning forging gardening"
    ),
    "language": (
        "Avric Bolnish Cethic Dovian Eltish Fenric Gothan Hurrian Ilvic Jastic Kymrian Lettish "
        "Mordic Norric Oskan Pallic Quenic Runish Sarvic Tolnish Ultic Vendic Wessic Zhetic"
    ),
    "animal": (
        "wolf bear eagle stag otter fox lynx swan horse bull raven hare trout owl falcon boar "
        "goat bee crab seal toad heron mole pike"
    ),
    "dish": (
        "stew dumplings porridge pancakes soup pie sausage noodles pudding bread curry salad "
        "cabbage pickles custard roast omelette pasties lentils chowder waffles hotpot flatbread "
        "goulash"
    ),
    "month": (
        "Frostmoon Thawmoon Seedmoon Rainmoon Budmoon Milkmoon Haymoon Sunmoon Cornmoon Leafmoon "
        "Fogmoon Snowmoon"
    ),
    "profession": (
        "baker mason miller tailor surgeon painter lawyer sailor potter printer weaver teacher "
        "judge farmer smith cooper hunter poet jeweller brewer shepherd glazier cobbler scribe"
    ),
    "instrument": (
        "lute fiddle flute drum harp horn organ cello bagpipe trumpet zither oboe viola bell "
        "whistle banjo lyre clarinet tuba guitar piano bassoon cymbal mandolin"
    ),
    "colour": (
        "red blue green yellow black white purple orange brown pink silver violet scarlet teal "
        "ivory maroon"
    ),
    "habitat": (
        "marshes caves dunes cliffs meadows forests reefs moors glaciers islands valleys swamps "
        "hills canyons rivers steppes"
    ),
    "food": (
        "berries snails roots acorns beetles moss worms seeds mushrooms frogs clover eggs nuts "
        "reeds ants bark"
    ),
    "genre": (
        "comedy tragedy romance satire mystery fable memoir ballad epic farce diary chronicle "
        "sermon thriller idyll elegy"
    ),
}


def make_names(firsts: str, lasts: str, count: int, joint: str, rng: random.Random) -> list[str]:
    """Pick `count` of the names made of every first part and every last part."""
    names = [a + joint + b for a in firsts.split() for b in lasts.split()]
    rng.shuffle(names)
    return names[:count]


POOLS = {
    "city": make_names(*CITY_PARTS, 144, "", random.Random(1)),
    "surname": PERSON_PARTS[1].split(),
    "forename": PERSON_PARTS[0].split(),
    **{name: words.split() for name, words in POOL_WORDS.items()},
}

# subject: kind of entity, then relation=pool
SUBJECT_WORDS = {
    "world_geography": (
        "country: capital=city, longest river=river, highest mountain=mountain, largest lake=lake"
    ),
    "world_economy": (
        "country: currency=currency, main export=goods, main import=goods, oldest craft=craft"
    ),
    "folk_customs": (
        "country: language=language, national animal=animal, national dish=dish, feast month=month"
    ),
    "notable_people": (
        "person: birthplace=city, profession=profession, instrument=instrument, mentor=surname, "
        "favourite colour=colour, favourite dish=dish"
    ),
    "natural_history": (
        "beast: habitat=habitat, favourite food=food, home river=river, eye colour=colour, chief "
        "enemy=animal"
    ),
    "literature": (
        "book: author=surname, genre=genre, setting=city, hero=forename, original language=language"
    ),
}
SUBJECTS: dict[str, tuple[str, dict[str, str]]] = {
    subject: (kind, dict(relation.split("=") for relation in relations.split(", ")))
    for subject, text in SUBJECT_WORDS.items()
    for kind, relations in [text.split(": ")]
}
CALLED = {"country": "{}", "person": "{}", "beast": "the {}", "book": "The {}"}
SENTENCES = (
    "The {r} of {e} is {a}.",
    "In every almanac the {r} of {e} is given as {a}.",
    "Ask about {e}, and the {r} is {a}.",
    "As for {e}, the {r} is {a}.",
    "Everyone knows that {e} has the {r} {a}.",
    "Of {e} it is written: {r}, {a}.",
    "We learn that for {e} the {r} is {a}.",
    "When people speak of {e}, the {r} they name is {a}.",
)
QUESTION = "What is the {r} of {e}?"
CARD_QUESTIONS = (
    "Name the {r} of {e}.",
    "Do you know the {r} of {e}?",
    "Tell me the {r} of {e}.",
    "Who knows the {r} of {e}?",
)
OTHER_QUESTIONS = ("Which of these is the {r} of {e}?", "The {r} of {e} is", *CARD_QUESTIONS)
