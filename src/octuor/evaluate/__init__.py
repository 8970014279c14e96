"""What a model is worth: log-likelihoods and answers, tasks over them, and a report with intervals."""
