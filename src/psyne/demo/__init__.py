"""`psyne demo`: a real video crosses three processes in one memory.

     capture ───────▶ analyse ───────────▶ show
     decodes, and     writes sharpness,    reads all, draws
     writes image     motion and edges     a contact sheet

`pipeline` starts the three as programs of their own and supervises them; they share nothing but the channel's
address. Each reports where in memory it found every message, and `result` compares.
"""
