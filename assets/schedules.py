"""What happens once a month: the refresh of the dataset, and the products of Satlas."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from assets.jobs import BUILD_DATASET, DATASET, SATLAS_MONTH
from assets.partitions import WHOLE_RANGE_TAGS
from assets.presets import default_preset, read_preset


@dg.schedule(
    name="monthly_refresh",
    job=BUILD_DATASET,
    cron_schedule="0 3 2 * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description=(
        "On the second of each month at 03:00 UTC: search again, plan what the latest dataset lacks (places without a "
        "patch, new places, and with max_age_days old patches), read that, publish a version. Where nothing is lacking "
        "nothing is written."
    ),
)
def monthly_refresh(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
    """One run a month; an unchanged archive writes nothing and leaves everything downstream fresh.

    A tick takes nothing from the job's own default: that belongs to single partitions.
    """
    month = context.scheduled_execution_time.strftime("%Y-%m")
    yield dg.RunRequest(
        run_key=month,
        run_config=refresh_config(context.scheduled_execution_time),
        tags={**WHOLE_RANGE_TAGS, "satclip/month": month},
    )


@dg.schedule(
    name="monthly_satlas",
    job=SATLAS_MONTH,
    cron_schedule="0 5 6 * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description=(
        "On the sixth of each month at 05:00 UTC, when its last scenes have arrived: the products of the month that is "
        "over, then index and validation. Months before are revised where the new one changes their verdicts."
    ),
)
def monthly_satlas(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
    """One run a month, of the month before."""
    first = context.scheduled_execution_time.replace(day=1)
    month = (first - timedelta(days=1)).strftime("%Y-%m")
    yield dg.RunRequest(run_key=month, partition_key=month, tags={"satclip/month": month})


def refresh_config(time: datetime) -> dict[str, Any]:
    """The preset's configuration of a build, turned into a refresh; where patches age, the search ends at ``time``."""
    config = read_preset(default_preset(), set(DATASET))
    operations = config.setdefault("ops", {})
    plan = operations.setdefault("sampling_manifest", {}).setdefault("config", {})
    plan["refresh"] = True
    if plan.get("max_age_days"):
        search = operations.setdefault("scene_candidates", {}).setdefault("config", {})
        search["end_date"] = time.strftime("%Y-%m-%d")
    return config
