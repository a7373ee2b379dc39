"""A stored prompt answered, and messages answered: resolve, render, judge, call, prove.

Others use `recipe.RecipeRunner` and `messages.MessageRunner`.
"""
