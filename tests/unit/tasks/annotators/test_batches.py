from tasks.annotators.batches import same_size


def test_images_of_one_size_go_together_in_their_order() -> None:
    sizes = {0: (4, 4), 1: (4, 8), 2: (4, 4), 4: (4, 4), 5: (4, 8)}
    assert same_size(sizes, 2) == [[0, 2], [4], [1, 5]]
    assert same_size(sizes, 1) == [[0], [2], [4], [1], [5]]
    assert same_size({}, 3) == []
