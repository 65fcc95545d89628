"""What a search may optimise beside a validation metric: costs, which follow from a trial's config alone."""

COST = "cost/"
COSTS = ("cost/million_parameters", "cost/gmacs", "cost/pretrain_epochs", "cost/pretrain_gmacs")
