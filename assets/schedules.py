"""The monthly refresh of the dataset."""

from collections.abc import Iterator

import dagster as dg

from assets.jobs import BUILD_DATASET, DATASET
from assets.partitions import WHOLE_RANGE_TAGS
from assets.presets import default_preset, read_preset


@dg.schedule(
    name="monthly_refresh",
    job=BUILD_DATASET,
    cron_schedule="0 3 2 * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description=(
        "On the second of each month at 03:00 UTC: search again within the configured dates, plan, read what the plan "
        "lacks, verify."
    ),
)
def monthly_refresh(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
    """One run a month; an unchanged plan reads nothing and leaves everything downstream fresh.

    A tick takes nothing from the job's own default: that belongs to single partitions.
    """
    month = context.scheduled_execution_time.strftime("%Y-%m")
    yield dg.RunRequest(
        run_key=month,
        run_config=read_preset(default_preset(), set(DATASET)),
        tags={**WHOLE_RANGE_TAGS, "satclip/month": month},
    )
