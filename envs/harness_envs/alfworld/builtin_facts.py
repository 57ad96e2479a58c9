"""Facts of ALFRED's world that the built-in games share with the official ones.

Source: the ``canContain``, ``openable``, ``cleanable`` ... facts of the official games
(release json_2.1.2_tw-pddl) and ``alfworld/gen/constants.py`` of ALFWorld 0.4.2, which builds them.
"""

from __future__ import annotations


def _classes(names: str) -> frozenset[str]:
    return frozenset(names.split())


OPENABLE = _classes("Cabinet Drawer Fridge Microwave Safe")
CLEANABLE = _classes(
    "Apple Bowl ButterKnife Cloth Cup DishSponge Egg Fork Kettle Knife Ladle Lettuce Mug Pan Plate"
    " Pot Potato SoapBar Spatula Spoon Tomato"
)
HEATABLE = _classes("Apple Bread Cup Egg Mug Plate Potato Tomato")
COOLABLE = _classes("Apple Bowl Bread Cup Egg Lettuce Mug Pan Plate Pot Potato Tomato WineBottle")
SLICEABLE = _classes("Apple Bread Egg Lettuce Potato Tomato")
RECEPTACLE_OBJECTS = _classes("Bowl Box Cup Mug Pan Plate Pot")
LAMP = "DeskLamp"

# Receptacle class -> object classes that may be put into it.
CAN_CONTAIN = {
    "ArmChair": _classes(
        "Book Box CellPhone Cloth CreditCard KeyChain Laptop Newspaper Pillow RemoteControl"
    ),
    "BathtubBasin": _classes("Cloth DishSponge HandTowel SoapBar"),
    "Bed": _classes("BaseballBat BasketBall Book CellPhone Laptop Pillow TennisRacket"),
    "Cabinet": _classes(
        "Book Bowl Box CD Candle Cloth Cup DishSponge Glassbottle HandTowel Kettle Ladle Mug"
        " Newspaper Pan PepperShaker Plate Plunger Pot SaltShaker SoapBar SoapBottle SprayBottle"
        " TissueBox ToiletPaper Vase WateringCan WineBottle"
    ),
    "Cart": _classes(
        "Candle Cloth DishSponge HandTowel Plunger SoapBar SoapBottle SprayBottle TissueBox"
        " ToiletPaper"
    ),
    "CoffeeMachine": _classes("Mug"),
    "CoffeeTable": _classes(
        "Book Bowl Box Candle CellPhone CreditCard KeyChain Laptop Newspaper Pen Pencil Plate"
        " RemoteControl Statue TissueBox Vase Watch WateringCan"
    ),
    "CounterTop": _classes(
        "AlarmClock Apple Book Bowl Bread ButterKnife CD Candle CellPhone Cloth CreditCard Cup"
        " DishSponge Egg Fork Glassbottle HandTowel Kettle KeyChain Knife Ladle Laptop Lettuce Mug"
        " Pan Pen Pencil PepperShaker Plate Pot Potato RemoteControl SaltShaker SoapBar SoapBottle"
        " Spatula Spoon SprayBottle Statue TissueBox ToiletPaper Tomato Vase WineBottle"
    ),
    "Desk": _classes(
        "AlarmClock BasketBall Book Bowl Box CD CellPhone Cloth CreditCard KeyChain Laptop Mug Pen"
        " Pencil RemoteControl Statue TennisRacket TissueBox Vase Watch WateringCan"
    ),
    "DiningTable": _classes(
        "AlarmClock Apple BaseballBat BasketBall Book Bowl Box Bread ButterKnife CD Candle"
        " CellPhone Cloth CreditCard Cup DishSponge Egg Fork Glassbottle Kettle KeyChain Knife"
        " Ladle Laptop Lettuce Mug Newspaper Pan Pen Pencil PepperShaker Plate Pot Potato"
        " RemoteControl SaltShaker SoapBottle Spatula Spoon SprayBottle Statue TennisRacket"
        " TissueBox Tomato Vase Watch WateringCan WineBottle"
    ),
    "Drawer": _classes(
        "Book ButterKnife CD Candle CellPhone Cloth CreditCard DishSponge Fork HandTowel KeyChain"
        " Knife Ladle Newspaper Pen Pencil PepperShaker RemoteControl SaltShaker SoapBar SoapBottle"
        " Spatula Spoon SprayBottle TissueBox ToiletPaper Watch WateringCan"
    ),
    "Dresser": _classes(
        "AlarmClock BasketBall Book Bowl Box CD Candle CellPhone Cloth CreditCard KeyChain Laptop"
        " Mug Newspaper Pen Pencil Plate RemoteControl SprayBottle Statue TennisRacket TissueBox"
        " ToiletPaper Vase Watch WateringCan"
    ),
    "Fridge": _classes(
        "Apple Bowl Bread Cup Egg Glassbottle Lettuce Mug Pan Plate Pot Potato Tomato WineBottle"
    ),
    "GarbageCan": _classes(
        "Apple Bread CD Cloth DishSponge Egg HandTowel Lettuce Newspaper Pen Pencil Potato SoapBar"
        " SoapBottle SprayBottle TissueBox ToiletPaper Tomato WineBottle"
    ),
    "HandTowelHolder": _classes("HandTowel"),
    "LaundryHamper": _classes("Cloth"),
    "Microwave": _classes("Apple Bowl Bread Cup Egg Glassbottle Mug Plate Potato Tomato"),
    "Ottoman": _classes(
        "Book Box CellPhone CreditCard KeyChain Laptop Newspaper Pillow RemoteControl"
    ),
    "Safe": _classes("CD CellPhone CreditCard KeyChain Statue Vase"),
    "Shelf": _classes(
        "AlarmClock Book Bowl Box CD Candle CellPhone Cloth CreditCard Cup DishSponge Glassbottle"
        " HandTowel Kettle KeyChain Mug Newspaper Pen Pencil PepperShaker Plate Pot RemoteControl"
        " SaltShaker SoapBar SoapBottle SprayBottle Statue TissueBox ToiletPaper Vase Watch"
        " WateringCan WineBottle"
    ),
    "SideTable": _classes(
        "AlarmClock Apple BaseballBat BasketBall Book Bowl Box Bread ButterKnife CD Candle"
        " CellPhone Cloth CreditCard Cup DishSponge Egg Fork HandTowel Kettle KeyChain Knife Laptop"
        " Lettuce Mug Newspaper Pan Pen Pencil PepperShaker Plate Pot Potato RemoteControl"
        " SaltShaker SoapBar SoapBottle Spatula Spoon SprayBottle Statue TennisRacket TissueBox"
        " ToiletPaper Tomato Vase Watch WateringCan WineBottle"
    ),
    "SinkBasin": _classes(
        "Apple Bowl ButterKnife Cloth Cup DishSponge Egg Fork Glassbottle HandTowel Kettle Knife"
        " Ladle Lettuce Mug Pan Plate Pot Potato SoapBar Spatula Spoon Tomato"
    ),
    "Sofa": _classes(
        "Book Box CellPhone CreditCard KeyChain Laptop Newspaper Pillow RemoteControl"
    ),
    "StoveBurner": _classes("Kettle Pan Pot"),
    "TVStand": _classes("TissueBox"),
    "Toaster": _classes(""),
    "Toilet": _classes(
        "Candle Cloth DishSponge HandTowel SoapBar SoapBottle SprayBottle TissueBox ToiletPaper"
    ),
    "ToiletPaperHanger": _classes("ToiletPaper"),
    "TowelHolder": _classes("Towel"),
}
