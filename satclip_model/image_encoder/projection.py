"""From image features to image embeddings: the trainable head."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ImageProjection(nn.Module):
    """The trainable head: standardised features to an embedding, not normalised.

    Args:
        feature_dim: Length of a feature vector.
        embedding_dim: Length of an embedding.
        hidden_dim: Width of the hidden layer; 0 makes the head linear.
        feature_dropout: Probability of dropping a standardised feature in training.
        dropout: Probability of dropping a hidden unit in training.
    """

    feature_mean: Tensor
    feature_scale: Tensor

    def __init__(
        self, feature_dim: int, embedding_dim: int, hidden_dim: int, feature_dropout: float = 0.0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.register_buffer("feature_mean", torch.zeros(feature_dim))
        self.register_buffer("feature_scale", torch.ones(feature_dim))
        layers: list[nn.Module] = [nn.Dropout(feature_dropout)]
        if hidden_dim:
            layers += [nn.Linear(feature_dim, hidden_dim), nn.GELU(), nn.Dropout(dropout)]
        layers.append(nn.Linear(hidden_dim or feature_dim, embedding_dim))
        self.layers = nn.Sequential(*layers)

    @torch.no_grad()
    def fit_standardisation(self, features: Float[Tensor, "batch feature"]) -> None:
        """Takes mean and standard deviation of the training features; constant features keep scale 1."""
        deviation, mean = torch.std_mean(features.double(), dim=0, correction=0)
        self.standardise_by(mean, deviation)

    @torch.no_grad()
    def standardise_by(self, mean: Float[Tensor, " feature"], deviation: Float[Tensor, " feature"]) -> None:
        """Takes mean and standard deviation as they were measured; constant features keep scale 1."""
        scale = torch.where(deviation > 1e-6 * mean.abs() + 1e-12, deviation, torch.ones_like(deviation))
        self.feature_mean.copy_(mean)
        self.feature_scale.copy_(scale)

    def forward(self, features: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch embed"]:
        """Embeddings of features, not normalised."""
        embeddings: Tensor = self.layers((features - self.feature_mean) / self.feature_scale)
        return embeddings
