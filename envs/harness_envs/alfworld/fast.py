"""ALFWorld in pure Python: equal to the original in every observation, command and win.

The rules are those of the original's PDDL domain and grammar (``alfred.pddl``, ``alfred.twl2`` of
alfworld 0.4.2) as Fast Downward and TextWorld execute them. Two things of theirs shape this file:
lists come sorted by the objects' ids, and an object may be in several receptacles at once.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from harness.errors import DataError
from harness_envs.alfworld.game import Game
from harness_envs.alfworld.pddl import Fact, atoms, compile_goal, parse_problem

NOTHING = "Nothing happens."
WELCOME = "-= Welcome to TextWorld, ALFRED! =-"
#: The ``help`` command's text (alfred.twl2 of the official games; the older grammar has none).
HELP = """Available commands:
  look:                             look around your current location
  inventory:                        check your current inventory
  go to (receptacle):               move to a receptacle
  open (receptacle):                open a receptacle
  close (receptacle):               close a receptacle
  take (object) from (receptacle):  take an object from a receptacle
  move (object) to (receptacle):  place an object in or on a receptacle
  examine (something):              examine a receptacle or an object
  use (object):                     use an object
  heat (object) with (receptacle):  heat an object using a receptacle
  clean (object) with (receptacle): clean an object using a receptacle
  cool (object) with (receptacle):  cool an object using a receptacle
  slice (object) with (object):     slice an object using a sharp object
"""
#: Tool receptacles: verb -> (receptacle type, what the object must be).
TOOLS = {
    "heat": ("microwavetype", "heatable"),
    "clean": ("sinkbasintype", "cleanable"),
    "cool": ("fridgetype", "coolable"),
}
KNIVES = ("knifetype", "butterknifetype")
#: Predicates that actions change, by verb: a verb that touches none of the goal's cannot win.
CHANGES = {
    "go": {"atlocation"},
    "open": {"opened"},
    "close": {"opened"},
    "take": {"inreceptacle", "objectatlocation", "holds", "holdsany"},
    "put": {"inreceptacle", "objectatlocation", "holds", "holdsany"},
    "heat": {"ishot", "iscool"},
    "cool": {"ishot", "iscool"},
    "clean": {"isclean"},
    "slice": {"issliced"},
    "use": {"istoggled", "ison"},
}
CONSTANT = {
    "receptacleatlocation", "receptacletype", "objecttype", "cancontain", "openable", "pickupable",
    "cleanable", "heatable", "coolable", "toggleable", "sliceable", "moveable", "full",
    "isreceptacleobject", "inreceptacleobject", "isreceptacleobjectfull",
    "holdsanyreceptacleobject", "wasinreceptacle", "examined",
}  # fmt: skip


def listing(names: list[str]) -> str:
    """``nothing`` | ``a x 1`` | ``a x 2, and a x 1`` | ``a x 3, a x 2, and a x 1``."""
    return enumeration([f"a {name}" for name in names]) if names else "nothing"


def enumeration(names: list[str]) -> str:
    if len(names) == 1:
        return names[0]
    return ", ".join(names[:-1]) + ", and " + names[-1]


def display_names(ids: Iterable[str]) -> dict[str, str]:
    """Names as ALFWorld shows them: of each class, the first sorted id gets the largest number.

    An id without a place (``curtains``) keeps a space after its name, as in the original.
    """
    ids = sorted(ids)
    counts = Counter(name for name in map(_class_of, ids) if name is not None)
    names = {}
    for id_ in ids:
        kind = _class_of(id_)
        if kind is None:
            names[id_] = f"{id_} "
        else:
            names[id_] = f"{kind} {counts[kind]}"
            counts[kind] -= 1
    return names


def _class_of(id_: str) -> str | None:
    kind, bar, _ = id_.partition("_bar_")
    if not bar:
        return None
    return kind + "basin" if "basin" in id_ else kind


class World:
    """What stays constant in a game: places, types, names, and which commands they allow."""

    def __deepcopy__(self, memo: dict[int, Any]) -> World:
        return self

    def __init__(self, game: Game) -> None:
        self.game = game
        where = f"ALFWorld game '{game.id}'"
        problem = parse_problem(game.pddl_problem, where)
        self.problem = problem
        facts = problem.facts
        self.openable = problem.having("openable")
        self.pickupable = problem.having("pickupable")
        self.sliceable = problem.having("sliceable")
        self.toggleable = problem.having("toggleable")
        self.containers = problem.having("isreceptacleobject")
        self.usable_with = {verb: problem.having(need) for verb, (_, need) in TOOLS.items()}
        self.names = display_names({a for of in facts.values() for f in of for a in f})
        self.place: dict[str, str] = {}
        for receptacle, location in facts.get("receptacleatlocation", ()):
            if self.place.setdefault(receptacle, location) != location:
                raise DataError(f"{where}: receptacle '{receptacle}' is at two locations.")
        self.receptacles = sorted(self.place)
        self.at: dict[str, list[str]] = defaultdict(list)
        for receptacle in self.receptacles:
            self.at[self.place[receptacle]].append(receptacle)
        types: dict[str, set[str]] = defaultdict(set)
        for thing, kind in [*facts.get("receptacletype", ()), *facts.get("objecttype", ())]:
            types[thing].add(kind)
        self.types = types
        self.accepts: dict[str, set[str]] = defaultdict(set)
        for receptacle_type, object_type in facts.get("cancontain", ()):
            self.accepts[receptacle_type].add(object_type)
        self.knives = {o for o, kinds in types.items() if kinds.intersection(KNIVES)}
        self.inner: dict[str, list[str]] = defaultdict(list)
        for inner, outer in sorted(set(facts.get("inreceptacleobject", ()))):
            if inner != outer:
                self.inner[outer].append(inner)
        _, self.start = _one(facts, "atlocation", where)
        self.ids = {name: id_ for id_, name in self.names.items()}
        self._go: dict[str, list[str]] = {}
        self._tools: dict[str, list[tuple[str, str]]] = {}
        self._holders: dict[tuple[str, str], bool] = {}
        self.basics = (
            ["inventory", "look"] if game.grammar == "put" else ["help", "inventory", "look"]
        )

    def go_commands(self, location: str) -> list[str]:
        """Sorted ``go to`` commands (and those that always work) for an agent at ``location``."""
        found = self._go.get(location)
        if found is None:
            others = [r for r in self.receptacles if self.place[r] != location]
            found = sorted([f"go to {self.names[r]}" for r in others] + self.basics)
            self._go[location] = found
        return found

    def tools_at(self, location: str) -> list[tuple[str, str]]:
        """(verb, receptacle) of the microwaves, sink basins and fridges at a location."""
        found = self._tools.get(location)
        if found is None:
            found = [
                (verb, r)
                for verb, (kind, _) in TOOLS.items()
                for r in self.at.get(location, ())
                if kind in self.types[r]
            ]
            self._tools[location] = found
        return found

    def can_hold(self, receptacle: str, thing: str) -> bool:
        """Whether a receptacle's type accepts an object's type. Nothing checks fullness."""
        key = (receptacle, thing)
        found = self._holders.get(key)
        if found is None:
            found = any(self.types[thing] & self.accepts[t] for t in self.types[receptacle])
            self._holders[key] = found
        return found


def _one(facts: dict[str, list[Fact]], predicate: str, where: str) -> Fact:
    found = facts.get(predicate, [])
    if len(found) != 1:
        raise DataError(
            f"{where}: field 'pddl_problem' has {len(found)} '{predicate}' facts instead of one. "
            "The file is damaged or not an ALFWorld game; get it again."
        )
    return found[0]


class FastEngine:
    """Plays one game at a time; see ``Engine`` in ``env`` for the interface. A copy goes on by
    itself from where the game stands."""

    def __init__(self) -> None:
        self._world: World | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_goal"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._world is not None:  # the test of the goal looks at the engine it was made for
            self._goal = self._compile_goal(self._world)

    def reset(self, game: Game) -> tuple[str, list[str]]:
        """Start a game: (introduction, admissible commands, sorted)."""
        if self._world is None or self._world.game != game:
            world = World(game)
            self._goal = self._compile_goal(world)
            self._world = self.world = world
        world = self.world
        facts = world.problem.facts
        self.location = world.start
        self.held: str | None = None
        for _, thing in facts.get("holds", ()):
            self.held = thing
        self.opened = world.problem.having("opened")
        self.hot = world.problem.having("ishot")
        self.cool = world.problem.having("iscool")
        self.clean = world.problem.having("isclean")
        self.sliced = world.problem.having("issliced")
        self.toggled = world.problem.having("istoggled")
        self.on = world.problem.having("ison")
        self.inside: dict[str, list[str]] = defaultdict(list)
        for thing, receptacle in sorted(set(facts.get("inreceptacle", ()))):
            self.inside[receptacle].append(thing)
        self.lying: dict[str, set[str]] = defaultdict(set)
        for thing, location in facts.get("objectatlocation", ()):
            self.lying[location].add(thing)
        # TextWorld's `not_inreceptacle` facts: they exist only once an object was taken out.
        self.taken: set[Fact] = set()
        self.won = self._goal()
        self.admissible = self._commands()
        scene = self._look(intro=True)
        task = f"Your task is to: {world.game.task}"
        return f"{WELCOME}\n\n{scene}\n\n{task}", list(self.admissible)

    def step(self, command: str) -> tuple[str, list[str], bool]:
        """Execute a command: (observation, admissible commands, whether the goal holds now)."""
        command = command.strip()
        if command not in self.admissible:
            return NOTHING, list(self.admissible), self.won
        verb, _, rest = command.partition(" ")
        if verb == "look":
            observation = self._look()
        elif verb == "inventory":
            observation = self._inventory()
        elif verb == "help":
            observation = HELP
        elif verb == "examine":
            observation = self._examine(self.world.ids[rest])
        else:
            verb = "put" if verb == "move" else verb
            observation = self._change(verb, rest)
            if CHANGES[verb] & self._watched:
                self.won = self._goal()
            self.admissible = self._commands()
        return observation, list(self.admissible), self.won

    def close(self) -> None:
        """Nothing to free: the engine holds no process and no file."""

    # Admissible commands --------------------------------------------------------------------

    def _commands(self) -> list[str]:
        world, held, names = self.world, self.held, self.world.names
        commands = list(world.go_commands(self.location))
        here = world.at.get(self.location, ())
        old = world.game.grammar == "put"
        for receptacle in here:
            name = names[receptacle]
            commands.append(f"examine {name}")
            accessible = True
            if receptacle in world.openable:
                accessible = receptacle in self.opened
                commands.append(f"{'close' if accessible else 'open'} {name}")
            inside = self.inside.get(receptacle, ())
            for thing in inside:
                if thing in world.toggleable:
                    commands.append(f"use {names[thing]}")
                if accessible and held is None and thing in world.pickupable:
                    commands.append(f"take {names[thing]} from {name}")
            if held is not None and accessible and world.can_hold(receptacle, held):
                put = f"put {names[held]} in/on {name}" if old else f"move {names[held]} to {name}"
                commands.append(put)
        if held is not None:
            commands.append(f"examine {names[held]}")
            for verb, receptacle in world.tools_at(self.location):
                if held in world.usable_with[verb]:
                    commands.append(f"{verb} {names[held]} with {names[receptacle]}")
            if held in world.knives:
                here_too = world.sliceable.intersection(self.lying.get(self.location, ()))
                commands += [f"slice {names[thing]} with {names[held]}" for thing in here_too]
        return sorted(set(commands)) if len(here) > 1 else sorted(commands)

    # What commands do -----------------------------------------------------------------------

    def _change(self, verb: str, rest: str) -> str:
        ids = self.world.ids
        if verb == "go":
            return self._go(ids[rest[3:]])
        if verb == "open":
            self.opened.add(ids[rest])
            return f"You open the {rest}. {self._contents(ids[rest])}"
        if verb == "close":
            self.opened.discard(ids[rest])
            return f"You close the {rest}."
        if verb == "take":
            thing, _, receptacle = rest.partition(" from ")
            return self._take(thing, receptacle)
        if verb == "put":
            between = " in/on " if self.world.game.grammar == "put" else " to "
            thing, _, receptacle = rest.partition(between)
            return self._put(thing, receptacle)
        if verb == "use":
            self.toggled.add(ids[rest])
            self.on ^= {ids[rest]}
            return f"You turn on the {rest}."
        thing, _, tool = rest.partition(" with ")
        id_ = ids[thing]
        if verb == "slice":
            self.sliced.add(id_)
            return f"You sliced the {thing} with the {tool}."
        if verb == "heat":
            self.hot.add(id_)
            self.cool.discard(id_)
        elif verb == "cool":
            self.cool.add(id_)
            self.hot.discard(id_)
        else:
            self.clean.add(id_)
        return f"You {verb} the {thing} using the {tool}."

    def _go(self, receptacle: str) -> str:
        world = self.world
        self.location = world.place[receptacle]
        goal = self.location if world.game.grammar == "put" else receptacle
        return f"You arrive at {world.names[goal]}. {self._contents(receptacle)}"

    def _take(self, thing: str, receptacle: str) -> str:
        id_, source = self.world.ids[thing], self.world.ids[receptacle]
        self.inside[source].remove(id_)
        self.taken.add((id_, source))
        self.lying[self.location].discard(id_)
        self.held = id_
        return f"You pick up the {thing} from the {receptacle}."

    def _put(self, thing: str, receptacle: str) -> str:
        id_, target = self.world.ids[thing], self.world.ids[receptacle]
        if not self._is_inside(id_, target):
            insort(self.inside[target], id_)
        self.taken.discard((id_, target))
        self.lying[self.location].add(id_)
        self.held = None
        if self.world.game.grammar == "put":
            return f"You put the {thing} in/on the {receptacle}."
        return f"You move the {thing} to the {receptacle}."

    # What commands say ----------------------------------------------------------------------

    def _contents(self, receptacle: str) -> str:
        name = self.world.names[receptacle]
        start = f"On the {name}, you see"
        if receptacle in self.world.openable:
            if receptacle not in self.opened:
                return f"The {name} is closed."
            start = f"The {name} is open. In it, you see"
        return f"{start} {listing([self.world.names[o] for o in self.inside.get(receptacle, ())])}."

    def _look(self, intro: bool = False) -> str:
        world = self.world
        here = world.at.get(self.location, [])
        if not here:
            # The location is bound when `look` is a command, so that it finds no receptacle.
            seen = listing([world.names[r] for r in world.receptacles] if intro else [])
            return f"You are in the middle of a room. Looking quickly around you, you see {seen}."
        beside = [
            world.names[thing]
            for thing in sorted(self.lying.get(self.location, ()))
            for receptacle in here
            if (thing, receptacle) in self.taken
        ]
        facing = enumeration([world.names[r] for r in here])
        return f"You are facing the {facing}. Next to it, you see {listing(beside)}."

    def _inventory(self) -> str:
        if self.held is None:
            return "You are not carrying anything."
        return f"You are carrying: a {self.world.names[self.held]}."

    def _examine(self, id_: str) -> str:
        world, name = self.world, self.world.names[id_]
        if id_ in world.place:
            return self._contents(id_)
        if id_ in world.containers:
            inner = listing([world.names[o] for o in world.inner.get(id_, ())])
            return f"This is a normal {name}. In it, you see {inner}."
        sliced = "sliced " if id_ in self.sliced else ""
        hot, cool, clean = id_ in self.hot, id_ in self.cool, id_ in self.clean
        if clean and (hot or cool):
            return f"This is a {'hot' if hot else 'cool'} and clean {sliced}{name}."
        if clean and sliced:
            return f"This is a clean sliced {name}."
        if hot:
            return f"This is a hot {sliced}{name}."
        if clean:
            return f"This is a clean {name}."
        if cool:
            # The grammar says "cold" when this is all there is to say.
            return f"This is a {'cool sliced' if sliced else 'cold'} {name}."
        if id_ in world.toggleable and id_ in self.toggled:
            return f"This {name} is on."
        if sliced and id_ in world.sliceable:
            return f"This is a sliced {name}."
        return f"There's nothing special about {name}."

    # The goal -------------------------------------------------------------------------------

    def _is_inside(self, thing: str, receptacle: str) -> bool:
        inside = self.inside.get(receptacle)
        if not inside:
            return False
        index = bisect_left(inside, thing)
        return index < len(inside) and inside[index] == thing

    def _compile_goal(self, world: World) -> Callable[[], bool]:
        problem = world.problem
        tests: dict[str, Callable[..., bool]] = {
            "atlocation": lambda _, location: self.location == location,
            "holds": lambda _, thing: self.held == thing,
            "holdsany": lambda _: self.held is not None,
            "inreceptacle": self._is_inside,
            "objectatlocation": lambda thing, location: thing in self.lying.get(location, ()),
            "opened": lambda receptacle: receptacle in self.opened,
            "ishot": lambda thing: thing in self.hot,
            "iscool": lambda thing: thing in self.cool,
            "isclean": lambda thing: thing in self.clean,
            "issliced": lambda thing: thing in self.sliced,
            "istoggled": lambda thing: thing in self.toggled,
            "ison": lambda thing: thing in self.on,
        }
        used = {atom[0] for atom in atoms(problem.goal)} - {"="}
        unknown = used - tests.keys() - CONSTANT
        if unknown:
            raise DataError(
                f"ALFWorld game '{world.game.id}': the goal asks for '{min(unknown)}', which "
                "this engine does not keep. Play it with engine='textworld'."
            )
        self._watched = used & tests.keys()
        constant = {p: set(problem.facts.get(p, ())) for p in used - tests.keys()}
        return compile_goal(problem.goal, problem.objects, constant, tests)
