"""Language models behind the ReAct policy: each module holds one ``harness.policy.Backend``."""
