"""Count where objects are in train games and write ``alfworld_prior.json``.

    python -m harness_agents.expert.fit_prior GAMES.jsonl.xz ... [--exclude IDS.txt] [--out FILE]
"""
