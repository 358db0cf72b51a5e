"""From noun phrases to boxes to the object crops that the visual prefix is made of."""
