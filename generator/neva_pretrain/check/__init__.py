"""What can be said of values before a GPU is used: schema, rules, memory, advice."""
