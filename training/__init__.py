"""Style examples to a LoRA adapter: guard, augment, train, gate, promote."""
