"""Lives of optimizers: sequences of steps and of edits as users make them, with every driver side by side.

``cases``       chains, parameters, and the classes of ``torch.optim`` that some of the chains equal
``worlds``      an optimizer and its parameters: of one driver, of ``torch.optim``, or the reference, rebuilt before every use
``edits``       everything that can happen to a world, each as plain data, so that a life can be printed and run again
``life``        a row of worlds to which the same edits happen, compared after each
``operations``  how a state machine of hypothesis draws edits that make sense at this point of a life
"""
