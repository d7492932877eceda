"""Everything that puts classfeed into AWS: the infrastructure as typed Python, the release, the image's parts."""
