/* Opening and closing a named channel: one live channel per name, whoever opens, closes or is killed, at any step.

   A channel is a file of its own name (name, generation); its header word is (joins, state), changed by CAS only.
   open:  list the files. One is OPEN: register (lock, record), then CAS joins + 1; if the word changed, unregister, run the
          close check, start again. None is OPEN: link a file of my own as PROPOSED, with myself registered and joins = 1; list
          again; every other PROPOSED file: CAS to CLOSED; one is OPEN: withdraw mine (CAS to CLOSED), start again; else CAS
          mine PROPOSED -> OPEN; that fails when somebody closed it: start again.
   close: unregister, then the close check: read the word, look at all records, CAS OPEN -> CLOSED from exactly what was read
          if nobody living is registered; who closed it, unlinks it, by its own name. A refused joiner is a leaver, too.
          An opener may run the close check on an OPEN file of the dead instead of joining it, and unlinks CLOSED files.
   Two openers may close each other's proposal and start again for ever: they back off for a random time.

   A listing is not atomic: a file linked while it runs may be missed.
   Each process has ATTEMPTS files; who has used them up gives up. The newcomer comes when all others are gone or dead,
   and must get in at its first attempt.

*/
