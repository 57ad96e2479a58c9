"""What usually lies where in the built-in rooms.

Each class: the share of games it occurs in, the most instances, and weights of the receptacle
classes it starts in. The weights were set by hand after the frequencies in ALFWorld's train games,
so that what an agent learns of one world helps it in the other.
"""

from __future__ import annotations

from typing import NamedTuple


class Habit(NamedTuple):
    share: float
    most: int
    places: dict[str, int]


def _habit(share: float, most: int, **places: int) -> Habit:
    return Habit(share, most, places)


_cup = {"Cabinet": 24, "CounterTop": 22, "Fridge": 20, "DiningTable": 15, "SinkBasin": 8}
_tool = {"CounterTop": 40, "DiningTable": 22, "Drawer": 22, "SinkBasin": 8, "SideTable": 2}
_shaker = {"Cabinet": 30, "CounterTop": 30, "DiningTable": 17, "Drawer": 14, "Shelf": 4}
_small = {"Drawer": 30, "Desk": 22, "SideTable": 18, "Shelf": 16, "Dresser": 15, "DiningTable": 6}
_seat = {"Sofa": 30, "ArmChair": 22, "CoffeeTable": 22, "SideTable": 12, "DiningTable": 10}
_decor = {"CoffeeTable": 28, "DiningTable": 20, "Shelf": 24, "SideTable": 18, "Dresser": 10}
_bottle = {"CounterTop": 27, "Toilet": 25, "Cabinet": 18, "GarbageCan": 12, "Shelf": 8, "Cart": 5}

HABITS: dict[str, dict[str, Habit]] = {
    "kitchen": {
        "Apple": _habit(
            0.9,
            3,
            Fridge=24,
            CounterTop=24,
            DiningTable=16,
            Microwave=12,
            GarbageCan=12,
            SinkBasin=9,
            SideTable=3,
        ),
        "Bowl": Habit(0.8, 3, {**_cup, "Cabinet": 36, "Microwave": 4, "Shelf": 4}),
        "Bread": _habit(0.8, 2, CounterTop=55, DiningTable=30, Fridge=13, SideTable=2),
        "ButterKnife": Habit(0.7, 3, {**_tool, "CounterTop": 52, "Drawer": 10}),
        "CellPhone": _habit(0.1, 2, CounterTop=45, Drawer=40, DiningTable=15),
        "CreditCard": _habit(0.1, 2, CounterTop=45, Drawer=40, Shelf=15),
        "Cup": Habit(0.8, 3, {**_cup, "Microwave": 8, "Shelf": 3, "SideTable": 2}),
        "DishSponge": _habit(
            0.8,
            3,
            CounterTop=26,
            Cabinet=22,
            Drawer=20,
            DiningTable=14,
            SinkBasin=10,
            GarbageCan=6,
            Shelf=3,
        ),
        "Egg": _habit(
            0.9,
            3,
            Fridge=25,
            CounterTop=24,
            GarbageCan=12,
            SinkBasin=12,
            Microwave=12,
            DiningTable=12,
            SideTable=2,
        ),
        "Fork": Habit(0.7, 3, _tool),
        "Glassbottle": _habit(
            0.25,
            3,
            Cabinet=30,
            CounterTop=28,
            DiningTable=14,
            Fridge=10,
            SinkBasin=8,
            GarbageCan=7,
            Shelf=4,
        ),
        "Kettle": _habit(
            0.4, 2, StoveBurner=40, CounterTop=26, Cabinet=22, DiningTable=8, SinkBasin=2, Shelf=2
        ),
        "Knife": Habit(0.8, 3, _tool),
        "Ladle": Habit(0.35, 3, {**_tool, "Cabinet": 22, "SinkBasin": 3}),
        "Lettuce": _habit(
            0.8, 3, CounterTop=40, DiningTable=28, Fridge=23, SinkBasin=5, SideTable=2, GarbageCan=2
        ),
        "Mug": _habit(
            0.8,
            3,
            CounterTop=26,
            CoffeeMachine=18,
            Cabinet=18,
            Fridge=13,
            DiningTable=10,
            Microwave=7,
            SinkBasin=6,
            Shelf=3,
            SideTable=2,
        ),
        "Pan": _habit(0.8, 2, StoveBurner=50, CounterTop=32, Cabinet=8, DiningTable=5, Fridge=4),
        "PaperTowelRoll": _habit(
            0.3, 1, CounterTop=58, DiningTable=16, GarbageCan=15, Shelf=9, SideTable=2
        ),
        "Pen": _habit(0.1, 2, CounterTop=40, DiningTable=34, Drawer=21, GarbageCan=5),
        "PepperShaker": Habit(0.8, 3, _shaker),
        "Plate": Habit(0.8, 3, {**_cup, "Cabinet": 36, "Fridge": 10, "SinkBasin": 3, "Shelf": 4}),
        "Pot": _habit(
            0.8, 3, StoveBurner=68, CounterTop=14, DiningTable=5, Fridge=5, Cabinet=5, Shelf=2
        ),
        "Potato": _habit(
            0.9,
            3,
            CounterTop=28,
            Fridge=26,
            DiningTable=16,
            Microwave=11,
            SinkBasin=10,
            GarbageCan=7,
            SideTable=2,
        ),
        "SaltShaker": Habit(0.8, 3, _shaker),
        "SoapBottle": _habit(
            0.7, 2, CounterTop=32, Cabinet=28, DiningTable=20, GarbageCan=12, Shelf=4, Drawer=3
        ),
        "Spatula": Habit(0.7, 3, _tool),
        "Spoon": Habit(0.8, 3, {**_tool, "Drawer": 28, "CounterTop": 36}),
        "Statue": _habit(0.15, 2, CounterTop=50, Shelf=45, DiningTable=5),
        "Tomato": _habit(
            0.9, 3, Fridge=33, CounterTop=29, DiningTable=19, GarbageCan=9, SinkBasin=6, SideTable=2
        ),
        "Vase": _habit(0.15, 2, CounterTop=34, Shelf=32, Cabinet=30, DiningTable=4),
        "WineBottle": _habit(
            0.35, 2, CounterTop=37, Cabinet=25, DiningTable=24, GarbageCan=9, Shelf=3, Fridge=2
        ),
    },
    "living": {
        "Book": Habit(0.35, 3, {**_seat, "Dresser": 15, "CoffeeTable": 28}),
        "Bowl": _habit(0.2, 2, DiningTable=34, CoffeeTable=33, TVStand=18, SideTable=8, Shelf=7),
        "Box": Habit(1.0, 2, {**_seat, "CoffeeTable": 24, "DiningTable": 25, "Shelf": 4}),
        "Candle": _habit(0.15, 3, SideTable=41, CoffeeTable=28, DiningTable=20, TVStand=8),
        "CellPhone": Habit(0.3, 3, {**_seat, "Dresser": 18, "Drawer": 12}),
        "CreditCard": Habit(
            1.0, 3, {**_seat, "CoffeeTable": 16, "Drawer": 13, "TVStand": 7, "Shelf": 5}
        ),
        "KeyChain": _habit(
            1.0,
            3,
            CoffeeTable=18,
            Drawer=17,
            SideTable=15,
            Sofa=15,
            ArmChair=11,
            TVStand=8,
            DiningTable=8,
            Dresser=6,
            Shelf=5,
        ),
        "Laptop": Habit(0.9, 2, {**_seat, "DiningTable": 20, "TVStand": 5, "Ottoman": 4}),
        "Newspaper": Habit(0.6, 3, {**_seat, "Shelf": 9, "Dresser": 7, "Drawer": 2}),
        "Pen": _habit(0.25, 2, CoffeeTable=34, Dresser=24, SideTable=22, Drawer=12, GarbageCan=5),
        "Pencil": _habit(0.25, 2, SideTable=34, CoffeeTable=32, Drawer=18, GarbageCan=8, TVStand=8),
        "Pillow": _habit(1.0, 2, Sofa=70, ArmChair=25, Ottoman=5),
        "Plate": _habit(0.35, 2, DiningTable=46, CoffeeTable=26, Shelf=13, SideTable=11, TVStand=4),
        "RemoteControl": Habit(1.0, 3, {**_seat, "TVStand": 8, "Dresser": 8, "Drawer": 5}),
        "Statue": Habit(0.9, 3, {**_decor, "TVStand": 9}),
        "TissueBox": Habit(0.4, 2, {**_decor, "TVStand": 7, "Drawer": 6, "GarbageCan": 3}),
        "Vase": Habit(0.6, 3, {**_decor, "TVStand": 6, "Cabinet": 4, "Safe": 2}),
        "Watch": _habit(
            0.5,
            3,
            CoffeeTable=27,
            Drawer=20,
            SideTable=18,
            Dresser=11,
            DiningTable=10,
            TVStand=10,
            Shelf=4,
        ),
        "WateringCan": _habit(0.4, 1, CoffeeTable=49, Shelf=43, SideTable=8),
    },
    "bedroom": {
        "AlarmClock": _habit(1.0, 3, Desk=34, Shelf=21, SideTable=19, Dresser=18, DiningTable=8),
        "Book": _habit(
            1.0,
            3,
            Bed=44,
            Desk=21,
            Drawer=13,
            Dresser=7,
            SideTable=6,
            DiningTable=4,
            Cabinet=3,
            ArmChair=2,
        ),
        "Bowl": _habit(0.45, 2, Desk=42, Shelf=28, Dresser=18, DiningTable=7, SideTable=5),
        "Box": _habit(0.4, 1, Desk=55, Shelf=45),
        "CD": Habit(0.9, 3, {**_small, "GarbageCan": 9, "Cabinet": 2, "ArmChair": 2}),
        "CellPhone": _habit(
            1.0,
            3,
            Bed=30,
            Desk=18,
            Drawer=17,
            Dresser=11,
            SideTable=10,
            Shelf=8,
            DiningTable=4,
            ArmChair=3,
            Safe=3,
        ),
        "CreditCard": Habit(0.9, 3, {**_small, "ArmChair": 4}),
        "KeyChain": Habit(0.9, 3, {**_small, "ArmChair": 3, "Safe": 4}),
        "Laptop": _habit(0.9, 2, Bed=66, Desk=24, Dresser=5, DiningTable=3, ArmChair=2),
        "Mug": _habit(
            0.5, 2, Desk=36, Shelf=18, Dresser=17, SideTable=17, DiningTable=9, Cabinet=3
        ),
        "Pen": Habit(1.0, 3, {**_small, "Desk": 32, "Drawer": 20, "GarbageCan": 3}),
        "Pencil": Habit(0.9, 3, {**_small, "Desk": 28, "Drawer": 20, "GarbageCan": 5}),
        "Pillow": _habit(1.0, 2, Bed=97, ArmChair=3),
        "RemoteControl": _habit(0.2, 2, Drawer=35, Desk=31, SideTable=16, ArmChair=9, Dresser=9),
        "Statue": _habit(0.2, 2, Shelf=42, Dresser=28, Desk=25, SideTable=5),
        "TeddyBear": _habit(0.35, 1, Bed=1),
        "TissueBox": _habit(0.2, 2, Desk=34, Drawer=24, DiningTable=14, Shelf=14, SideTable=14),
        "Vase": _habit(0.15, 3, Shelf=43, Dresser=35, Desk=11, SideTable=11),
        "Watch": _habit(0.2, 3, Drawer=28, Shelf=23, DiningTable=16, Desk=14, Dresser=13),
    },
    "bathroom": {
        "Candle": _habit(
            1.0, 3, Toilet=29, CounterTop=28, Cabinet=15, Drawer=14, Shelf=7, SideTable=3, Cart=3
        ),
        "Cloth": _habit(
            1.0,
            3,
            BathtubBasin=28,
            Cabinet=19,
            CounterTop=17,
            Drawer=16,
            SinkBasin=8,
            Toilet=5,
            Shelf=5,
            Cart=2,
        ),
        "DishSponge": _habit(
            0.35,
            3,
            CounterTop=19,
            Drawer=18,
            BathtubBasin=16,
            Toilet=10,
            SinkBasin=10,
            Shelf=9,
            Cart=8,
            Cabinet=6,
            GarbageCan=4,
        ),
        "HandTowel": _habit(1.0, 2, HandTowelHolder=88, CounterTop=6, Toilet=4, GarbageCan=2),
        "PaperTowelRoll": _habit(0.2, 1, CounterTop=38, Toilet=32, Shelf=18, GarbageCan=12),
        "SoapBar": _habit(
            1.0,
            3,
            CounterTop=19,
            Toilet=16,
            SinkBasin=14,
            Cabinet=13,
            Drawer=12,
            BathtubBasin=11,
            GarbageCan=9,
            Shelf=4,
            Cart=2,
        ),
        "SoapBottle": Habit(1.0, 3, {**_bottle, "Drawer": 4}),
        "SprayBottle": Habit(1.0, 3, {**_bottle, "SideTable": 3}),
        "TissueBox": _habit(
            0.35, 2, CounterTop=32, Shelf=26, Drawer=20, Cart=6, Toilet=5, Cabinet=5, SideTable=4
        ),
        "ToiletPaper": _habit(
            1.0,
            3,
            Toilet=22,
            CounterTop=20,
            ToiletPaperHanger=14,
            Drawer=13,
            Cabinet=12,
            GarbageCan=9,
            Shelf=6,
            Cart=2,
        ),
        "Towel": _habit(1.0, 2, TowelHolder=97, CounterTop=3),
    },
}

# Where a desk lamp stands.
LAMP_PLACES = {"SideTable": 45, "Desk": 35, "Dresser": 20, "CoffeeTable": 4, "Shelf": 4}
LAMP_SHARE = {"kitchen": 0.0, "living": 0.3, "bedroom": 0.7, "bathroom": 0.0}

# Things beside the receptacles: no command reaches them, as in the official games. Class -> most.
SCENERY = {
    "kitchen": {"Chair": 3, "LightSwitch": 1, "Sink": 1, "StoveKnob": 4, "Window": 2},
    "living": {"Chair": 2, "HousePlant": 1, "LightSwitch": 1, "Painting": 2, "Television": 1},
    "bedroom": {"Blinds": 1, "Chair": 1, "LightSwitch": 1, "Mirror": 1, "Window": 2},
    "bathroom": {"LightSwitch": 1, "Mirror": 1, "Plunger": 1, "ScrubBrush": 1, "Sink": 1},
}
# Scenery that could be carried if it lay in a receptacle.
LOOSE = frozenset({"Plunger", "ScrubBrush"})
