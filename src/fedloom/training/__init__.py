"""What a client does with a batch: schedules, batches, optimisers and the training of a cohort."""
