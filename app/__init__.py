"""The application: data sets, jobs, models and predictions behind HTTP."""
