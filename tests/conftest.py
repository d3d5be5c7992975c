"""What all tests share: the same random choices in every run."""

from hypothesis import settings

# For new choices: pytest --hypothesis-profile=explore
settings.register_profile("fixed", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("explore", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("fixed")
