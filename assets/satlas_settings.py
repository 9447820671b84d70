"""Settings of satlas assets as the stages take them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assets.satlas_products import SatlasProductsConfig, SatlasValidationConfig
    from pipelines.satlas.product_config import ProductConfig
    from pipelines.satlas.tree_cover import TreeCoverConfig
    from pipelines.satlas.validation.stage import ValidationConfig


def product_settings(config: "SatlasProductsConfig") -> "tuple[ProductConfig, TreeCoverConfig]":
    """How objects, and how tree cover becomes a product; raises ValidationError for settings that contradict."""
    from pipelines.satlas.product_config import ProductConfig
    from pipelines.satlas.smoothing import SmoothingConfig
    from pipelines.satlas.tree_cover import TreeCoverConfig

    given = config.model_dump()
    smoothing = {name: given[name] for name in SmoothingConfig.model_fields if name in given}
    products = {name: given[name] for name in ProductConfig.model_fields if name in given}
    return (
        ProductConfig.model_validate({**products, "smoothing": smoothing}),
        TreeCoverConfig.model_validate({"class_bounds": given["tree_cover_bounds"]}),
    )


def validation_settings(config: "SatlasValidationConfig") -> "ValidationConfig":
    """How products are validated."""
    from pipelines.satlas.validation.stage import ValidationConfig

    given = config.model_dump()
    return ValidationConfig.model_validate({name: given[name] for name in ValidationConfig.model_fields})
