"""The recipe of the small picture model: data, training, and the folder that stock diffusers loads."""
