"""People by OpenPose: where their joints, hands and faces are, and the drawing that ControlNet is trained on."""
