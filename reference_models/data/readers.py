"""The formats of data sets: how a split of each is read, and where its label file is."""

from reference_models.data.mnre import mnre_file, read_mnre
from reference_models.data.twitter import read_twitter, twitter_file

TASKS = {"twitter": "ner", "mnre": "re"}
READERS = {"twitter": (read_twitter, twitter_file), "mnre": (read_mnre, mnre_file)}
