/* The consumer's side: an effect happens once for each event, however often it is delivered and whoever dies.

   The table inbox: an event's id and the effect are written in one transaction, and the broker delivers again until it has an
   acknowledgement. The transactional consumer: the cursor's move and the effects commit together. */

#ifndef CONSUMERS
#define CONSUMERS 3        /* deliveries of one event at a time */
#endif
#ifndef EVENTS
#define EVENTS 3           /* in the log of the transactional consumer */
#endif
#ifndef DEATHS
#define DEATHS 2           /* also stands for a COMMIT without an answer: whoever hears nothing begins again */
#endif

byte deaths = DEATHS;

/* The table inbox. */
bool inserted;             /* the event's id, committed */
byte inserting;            /* the transaction that has inserted it, uncommitted: others wait for its end */
byte effects;              /* committed */
bool acknowledged;

proctype Consumer(byte me) {
deliver:
  do
  :: acknowledged -> break
  :: !acknowledged -> /* one delivery of many */
#ifdef EFFECT_FIRST
     if
     :: inserted -> goto known
     :: else
     fi;
     effects++; assert(effects <= 1);
     if :: atomic { deaths > 0 -> deaths--; goto deliver } :: true fi;
     atomic { inserted = true }
#else
     /* INSERT … ON CONFLICT DO NOTHING */
     if
     :: atomic { inserting == 0 && !inserted -> inserting = me }
     :: inserted -> goto known
     fi;
#ifdef ROW_FIRST
     atomic { inserted = true; inserting = 0 };
     if :: atomic { deaths > 0 -> deaths--; goto deliver } :: true fi;
     effects++
#else
     if
     :: atomic { deaths > 0 -> deaths--; inserting = 0; goto deliver } /* rolled back */
     :: atomic { inserted = true; inserting = 0; effects++; assert(effects <= 1) }
     :: atomic { inserting = 0; goto deliver }                         /* the effect fails */
     fi
#endif
#endif
known:
     if
     :: atomic { deaths > 0 -> deaths--; goto deliver }                /* before its acknowledgement */
     :: acknowledged = true
     fi
  od;
  assert(effects == 1)
}

/* The transactional consumer: a cursor, by whose token its owner is known, and effects. */
byte position, cursorToken, tokens;
byte applied[EVENTS + 1];  /* committed effects */
byte locked;               /* the cursor's row, until its transaction has ended */
byte failures = 1;         /* of handlers */
byte steals = 2;           /* take-overs from one that is alive */

#ifdef CURSOR_WITHOUT_TOKEN
#define MINE true
#else
#define MINE (cursorToken == token)
#endif

proctype Transactional(byte me) {
  byte token, from, to, i;
take:
  atomic { locked == 0 -> tokens++; cursorToken = tokens; token = tokens };
  do
  :: position == EVENTS -> break
  :: else ->
     /* Its reading is the transaction's first statement. */
     atomic { token = (cursorToken == token -> token : 0); from = position; to = EVENTS };
     if
     :: atomic { token == 0 && steals > 0 -> steals--; goto take }
     :: atomic { token == 0 && steals == 0 -> goto over } /* another one has it */
     :: token != 0
     fi;
     if /* a handler fails: then each event has a transaction of its own */
     :: atomic { failures > 0 -> failures--; to = (from < EVENTS -> from + 1 : EVENTS) }
     :: true
     fi;
     if
     :: atomic { deaths > 0 -> deaths--; goto take }
     :: true
     fi;
#ifdef MOVE_APART
     atomic { i = from + 1; do :: i <= to -> applied[i]++; assert(applied[i] <= 1); i++ :: else -> break od };
     if :: atomic { deaths > 0 -> deaths--; goto take } :: true fi;
     atomic { position = (MINE -> to : position) }
#else
     /* The move is the last: an UPDATE that waits for the row, and looks at the token then. */
     atomic {
       locked == 0;
       if
       :: MINE -> locked = me
       :: else -> from = 0; to = 0; token = 0; goto refused /* rolled back, effects and all */
       fi
     };
     atomic {
       if
       :: deaths > 0 -> deaths--; locked = 0; goto take
       :: true ->
          i = from + 1;
          do :: i <= to -> applied[i]++; assert(applied[i] <= 1); i++ :: else -> break od;
          position = to; cursorToken = (tokens + 1); tokens++; token = tokens; locked = 0;
          if
          :: deaths > 0 -> deaths--; goto take /* no answer */
          :: true
          fi
       fi
     }
#endif
refused:
     skip
  od;
  i = 1;
  do :: i <= EVENTS -> assert(applied[i] == 1); i++ :: else -> break od;
over:
  skip
}

init {
  byte k = 1;
#ifdef TRANSACTIONAL
  atomic { run Transactional(1); run Transactional(2) }
#else
  atomic { do :: k <= CONSUMERS -> run Consumer(k); k++ :: else -> break od }
#endif
}
