"""What the owners of a source say of passing it on, where that is known."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Licence:
    """
    Attributes:
        name: as a data set's card has it.
        link: where it can be read.
        may_share: whether it allows to pass the data on.
        terms: what it says, in a sentence.
    """

    name: str
    link: str
    may_share: bool
    terms: str


LICENCES = {
    "movielens": Licence(
        name="movielens-terms-of-use",
        link="https://files.grouplens.org/datasets/movielens/ml-100k-README.txt",
        may_share=False,
        terms="MovieLens may be used for research; it may not be redistributed without separate permission.",
    ),
    "yelp": Licence(
        name="yelp-dataset-terms-of-use",
        link="https://business.yelp.com/data/resources/open-dataset/",
        may_share=False,
        terms="Yelp's data may be used for academic purposes; they may not be passed on.",
    ),
}
