"""What the embeddings are worth: tasks, splits, probes, baselines, scores, figures and the report."""
