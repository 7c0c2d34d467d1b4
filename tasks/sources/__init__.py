"""Where rows come from: lists of URLs, folders of images, output of img2dataset; and how they become source shards."""
