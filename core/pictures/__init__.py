"""Pictures that callers send, read safely: any format and mode to upright 8-bit RGB, in processes of their own.

`processes.DecodingProcesses` is what a service uses; `decode.decode` is what such a process does with one file;
`flat` is where every mode becomes RGB. Needs Pillow and numpy, which the groups `image` and `vision` bring.
"""
