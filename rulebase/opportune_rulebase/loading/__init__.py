"""From the text of a rulebase to the immutable `Rulebase`, with every error at its place."""
