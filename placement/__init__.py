"""Which model runs on which card, in how many bytes, and who takes turns. Pure: sizes in, a plan out.

Others use `plan.plan`, `cards.card_of` and `sizes.shipped`.
"""
