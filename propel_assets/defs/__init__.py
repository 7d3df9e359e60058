"""Tables to assets, checks, schedules and sensors. The only room that knows Dagster."""

import warnings

# Every `dagster` command would print this twice. Beta means here: the signature may change in a minor release.
warnings.filterwarnings("ignore", message="Function `observable_source_asset` is currently in beta")
