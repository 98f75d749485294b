"""One NeVa pretraining step on GPUs: time and memory, beside what the planner predicts."""
