/* Careful mode: an event that kills whoever publishes it is found, and the others go out.

   A relay reads a batch and publishes it. KILLER is an event that ends its process each time. The next relay finds a lease
   that ran out without a goodbye. It takes the events that may have been in flight one by one, and writes down which, before it
   tries it. */

#ifndef EVENTS
#define EVENTS 3
#endif
#ifndef KILLERS
#define KILLERS 1          /* events 1 to KILLERS kill */
#endif
#define MAX_CRASHES 2

#define bit(n)     (1 << (n))
#define in(set, n) (((set) >> (n)) & 1)
#define ALL        ((1 << (EVENTS + 1)) - 2)

byte done;                 /* events that are published, or dead */
byte dead;
byte crashes[EVENTS + 1];  /* written down with the event */
bool careful;              /* the last owner's lease ran out */
byte deaths;               /* of relays */

proctype Relay() {
  byte i, batch;
  do
  :: done == ALL -> break
  :: else ->
     if
#ifndef NO_CARE
     :: careful ->
        i = 1;
        do
        :: i <= EVENTS && in(done, i) -> i++
        :: i <= EVENTS && !in(done, i) && crashes[i] == MAX_CRASHES -> atomic { dead = dead | bit(i); done = done | bit(i) }; break
        :: i <= EVENTS && !in(done, i) && crashes[i] < MAX_CRASHES ->
           crashes[i]++;           /* before it is tried */
           if
           :: i <= KILLERS -> goto killed
           :: i > KILLERS -> atomic { crashes[i]--; done = done | bit(i) }
           fi;
           break
        :: i > EVENTS -> careful = false; break
        od
     :: !careful ->
#else
     :: true ->
#endif
        batch = ALL & ~done; i = 1;
        do
        :: i <= EVENTS && !in(batch, i) -> i++
        :: i <= EVENTS && in(batch, i) && i <= KILLERS -> goto killed
        :: i <= EVENTS && in(batch, i) && i > KILLERS -> i++ /* it is out, and that isn't written down */
        :: i > EVENTS -> done = done | batch; break
        od
     fi
  od;
  assert(dead == (1 << (KILLERS + 1)) - 2);
  goto ended;
killed:
  atomic {
    deaths++;
    assert(deaths <= 1 + KILLERS * MAX_CRASHES);
    careful = true;
    run Relay()
  }
ended:
  skip
}

init { run Relay() }
