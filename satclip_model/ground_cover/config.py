"""Settings of the ground-cover model; importing them does not import PyTorch."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from satclip_model.config import ImageBackboneConfig, ImageHeadConfig, RandomFeaturesConfig

_Byte = Annotated[int, Field(ge=0, le=255)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GroundCoverClass(_Settings):
    """A class of a land-cover map, as the model knows it.

    Attributes:
        code: Its value in the map.
        name: What it is called.
        description: What it looks like.
        color: Red, green and blue.
    """

    code: int = Field(ge=0, le=65_535)
    name: str = Field(min_length=1)
    description: str = ""
    color: tuple[_Byte, _Byte, _Byte] = (128, 128, 128)


class TextEncoderConfig(_Settings):
    """What turns the text of a class into numbers; it is never trained.

    Attributes:
        kind: ``attribute_bag``: hashed words and parts of words, offline; ``hugging_face``: a language model.
        num_buckets: Length of the vector of an attribute bag.
        name: OWNER/NAME of the language model, or a folder that holds it.
    """

    kind: Literal["attribute_bag", "hugging_face"] = "attribute_bag"
    num_buckets: int = Field(default=4096, ge=64, le=1 << 20)
    name: str = ""

    @model_validator(mode="after")
    def _name_belongs_to_hugging_face(self) -> Self:
        if (self.kind == "hugging_face") != bool(self.name):
            raise ValueError(
                f"text encoder {self.kind!r} has the name {self.name!r}; hugging_face needs one, attribute_bag has none"
            )
        return self


class GroundCoverConfig(_Settings):
    """Settings of the image tower and the class tower.

    Attributes:
        classes: The classes that training knows, in the order of its targets.
        image_backbone: The image tower without its head.
        image_head: The head of the image tower.
        text_encoder: What reads names and descriptions.
        embedding_dim: Length of an embedding of either tower.
        min_temperature: Lower bound of the temperature of the loss.
    """

    classes: tuple[GroundCoverClass, ...] = Field(min_length=2)
    image_backbone: ImageBackboneConfig = RandomFeaturesConfig()
    image_head: ImageHeadConfig = ImageHeadConfig()
    text_encoder: TextEncoderConfig = TextEncoderConfig()
    embedding_dim: int = Field(default=128, ge=2, le=1 << 16)
    min_temperature: float = Field(default=0.02, gt=0, lt=1)

    @model_validator(mode="after")
    def _classes_differ(self) -> Self:
        for what, values in (
            ("code", [str(each.code) for each in self.classes]),
            ("name", [each.name for each in self.classes]),
        ):
            twice = sorted({each for each in values if values.count(each) > 1})
            if twice:
                raise ValueError(f"classes: {what} {', '.join(twice)} stands twice, expected once")
        return self
