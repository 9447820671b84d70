"""The partitions of ``patches``: a fixed number, whatever the size of the dataset.

Fewer than 100, because from 100 upstream partitions on Dagster stops telling an unpartitioned child that it is stale.
"""

import dagster as dg

NUM_PARTITIONS = 80
PATCH_PARTITIONS = dg.StaticPartitionsDefinition([f"{number:02d}" for number in range(NUM_PARTITIONS)])
WHOLE_RANGE_TAGS = {
    "dagster/asset_partition_range_start": PATCH_PARTITIONS.get_first_partition_key() or "",
    "dagster/asset_partition_range_end": PATCH_PARTITIONS.get_last_partition_key() or "",
}
"""Run tags that make one run cover every partition."""
SATLAS_MONTHS = dg.MonthlyPartitionsDefinition(start_date="2016-01", fmt="%Y-%m")
"""The months of all satlas assets; a month can be made once it is over."""
