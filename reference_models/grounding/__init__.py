"""Visual grounding: noun phrases to boxes, and boxes to the object crops for the visual prefix."""
