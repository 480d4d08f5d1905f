"""Networks: the any-level U-Net that every process shares."""
