"""Fine-tuning from a recipe: talks, texts or preferences; adapters over a base of any storage, or all weights."""
