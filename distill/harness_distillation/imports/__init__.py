"""Foreign trajectory logs as run folders: typed episodes, with a report of what was understood.

    files -> records -> spans (a grammar's cuts) -> steps -> episodes -> a run folder

Our own data never meet a regular expression: grammars exist for logs of others alone.
"""
