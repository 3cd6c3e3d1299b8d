"""Do information bounds track the generalization gap over depth, width, weight decay and seeds?"""
