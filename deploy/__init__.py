"""Deployment of classfeed to AWS: the infrastructure as typed Python, the release, the image's parts."""
