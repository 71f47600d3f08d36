"""Input that no good command would be given, of every kind, and what has to become of it.

    case.py         what a case is: files laid out in a folder of its own, commands, what to expect
    running.py      runs the commands of a case, each in a process of its own, and says what is wrong with the outcome
    good.py         the valid recipe, checkpoint, bundle and data that cases start from
    values.py       values that a field cannot be, by its JSON schema
    recipes.py … arguments.py   the kinds: `NAMED` cases, and `draw` for seeded ones

Some of the cases drawn are valid and must pass, so that a command which refuses everything fails.
"""
