"""The orchestrator: Dagster assets, jobs, schedules and resources over the stages of ``pipelines``."""
