/* The outbox as a log: does every event that committed come out, in its aggregate's order, in whatever order transactions commit?

   Writers insert rows and commit or roll back. Relays read by one snapshot, publish, and move their subscription's cursor. As in
   PostgreSQL, a snapshot is xmax, one past the last completed transaction (not the next id to be given out), and xip, those below
   it that are in progress. Settings and seeded bugs are given by -D; models.md lists them. */

#ifndef WRITERS
#define WRITERS 3          /* transactions that write, */
#endif
#ifndef ROWS
#define ROWS 1             /* and rows of each */
#endif
#ifndef LIMIT
#define LIMIT 4            /* rows of a reading */
#endif
#ifndef RELAYS
#define RELAYS 1           /* of each subscription; who begins later takes over from whoever is there */
#endif
#ifndef SUBSCRIPTIONS
#define SUBSCRIPTIONS 1
#endif
#ifndef FAILURES
#define FAILURES 0         /* publications that fail */
#endif
#ifndef AGGREGATES
#define AGGREGATES 2
#endif

#define SEQS 8             /* bounds of what is given out, from 1 */
#define XIDS 30

#define bit(n)     (1 << (n))
#define in(set, n) (((set) >> (n)) & 1)

typedef cursor {
  byte position, prior, xmax, token, owner, placements;
  int xip;
  bit late;                /* late rows go out in pieces: by the first piece's snapshot, and they are as far as lateThrough */
  byte lateXmax, lateThrough;
  int lateXip;
  byte parked              /* a set of seqs */
};
typedef database {
  byte xid, seq;           /* the last ones that were given out */
  byte last;               /* the highest completed xid */
  int running, committed;  /* sets of xids */
  byte rows;               /* a set of seqs */
  byte xidOf[SEQS], idOf[SEQS];
  cursor c[SUBSCRIPTIONS]
};
database db;

/* What no fail-over takes back. */
byte incarnation = 1;
byte tokens;               /* random ones: none is given out twice */
byte ids;                  /* events' ids likewise */
byte busy;               /* writers, and others who may still change something */
byte relays[SUBSCRIPTIONS];
byte failures = FAILURES;
bool disturbed;            /* a take-over or fail-over: then publications may be repeated */
int published[SUBSCRIPTIONS], skipped[SUBSCRIPTIONS]; /* sets of ids */
int again;                 /* ids that a replay is to bring once more */
byte aggregate[SEQS + 2];  /* of an id */
bool locked[AGGREGATES];   /* the guard's row, until its transaction has ended */

#define shown(x, max, ip)   ((x) < (max) && !in(ip, x)) /* pg_visible_in_snapshot */
#define visible(i, max, ip) (in(db.rows, i) && in(db.committed, db.xidOf[i]) && shown(db.xidOf[i], max, ip))

/* A transaction that writes begins with an xid, in an incarnation of the database, which takes it along when it ends. */
inline begin(x, inc) {
  d_step { db.xid++; x = db.xid; assert(x < XIDS); db.running = db.running | bit(x); inc = incarnation }
}

inline end(x, inc) {
  d_step {
    if
    :: inc == incarnation -> db.running = db.running & ~bit(x); db.last = (x > db.last -> x : db.last)
    :: else
    fi;
    x = 0; inc = 0
  }
}

/* What a seeded bug leaves out. */
#ifdef XIP_ALONE
#define BEYOND(k, i)        false
#else
#define BEYOND(k, i)        (i > k.prior && db.xidOf[i] >= k.xmax)
#endif
#ifdef FRESH_BEFORE_LATE
#define FRESH(b, k)         true
#else
#define FRESH(b, k)         (!b.piece && !k.late)
#endif
#ifdef PASS_PARKED
#define BEHIND(b, i)        false
#else
#define BEHIND(b, i)        in(b.behind, i)
#endif
#ifdef NO_TOKEN
#define SAME_TOKEN(b, s)    true
#else
#define SAME_TOKEN(b, s)    (db.c[s].token == b.token)
#endif
#ifdef NO_INCARNATION
#define SAME_INCARNATION(b) true
#else
#define SAME_INCARNATION(b) (incarnation == b.inc)
#endif
#ifdef PRIOR_FROM_ROW
#define PRIOR(b, s)         db.c[s].position
#else
#define PRIOR(b, s)         b.shown
#endif
#ifdef LAST_PIECES_SNAPSHOT
#define FIRST_PIECES        false
#else
#define FIRST_PIECES        true
#endif
#ifdef DELETE_UNSHOWN
#define SHOWN(s, i)         true
#else
#define SHOWN(s, i)         shown(db.xidOf[i], db.c[s].xmax, db.c[s].xip)
#endif
#ifdef PLACED_IN_ONE_MOVE
#define PLACED(s)           db.c[s].placements = 0; db.c[s].prior = db.c[s].position
#else
#define PLACED(s)           db.c[s].placements--
#endif
#ifdef TOKENS_COUNT
#define newToken(s) db.c[s].token++
#else
#define newToken(s) tokens++; db.c[s].token = tokens
#endif

#ifdef FAILOVER
inline copyCursor(f, t) {
  t.position = f.position; t.prior = f.prior; t.xmax = f.xmax; t.xip = f.xip; t.token = f.token; t.owner = f.owner;
  t.placements = f.placements; t.late = f.late; t.lateXmax = f.lateXmax; t.lateXip = f.lateXip; t.lateThrough = f.lateThrough;
  t.parked = f.parked
}
#endif

/* A writer's rows are of one aggregate. The guard's UPDATE takes an xid, then waits for its row, and the rows get their numbers
   after that. */
proctype Writer(byte me) {
  byte x, inc, a, n;
  if
  :: a = 0
  :: me > 0 && AGGREGATES > 1 -> a = 1
  :: me > 1 && AGGREGATES > 2 -> a = 2
  fi;
  begin(x, inc);
  atomic {
    !locked[a] || inc != incarnation;
    locked[a] = (inc == incarnation -> true : locked[a])
  };
  do
  :: n < ROWS ->
     d_step {
       if
       :: inc == incarnation ->
          db.seq++; assert(db.seq < SEQS);
          ids++; assert(ids < SEQS + 2); aggregate[ids] = a;
          db.xidOf[db.seq] = x; db.idOf[db.seq] = ids; db.rows = db.rows | bit(db.seq)
       :: else
       fi;
       n++
     }
  :: else -> break
  od;
  atomic {
    if
    :: inc == incarnation -> db.committed = db.committed | bit(x); locked[a] = false
    :: inc == incarnation -> locked[a] = false /* rolled back */
    :: inc != incarnation
    fi;
    end(x, inc);
    busy--
  }
}

/* A batch in a relay's memory. */
typedef batch {
  byte token, inc, shown, position, through; /* shown: the position that the snapshot showed */
  byte late, fresh, behind, park;            /* sets of seqs */
  byte xmax;
  int xip;
  bool piece, placing;
  byte id[SEQS]
};

/* read is one statement: a cursor, and rows, in one snapshot. It goes by k, which is the cursor's row, but for reading ahead. */
inline read(b, s, k) {
  d_step {
    b.token = db.c[s].token; b.inc = incarnation; b.shown = db.c[s].position; b.position = k.position; b.through = k.lateThrough;
    b.xmax = db.last + 1; b.xip = db.running & (bit(db.last + 1) - 1);
    b.late = 0; b.fresh = 0; b.behind = 0; b.park = 0; b.piece = false; b.placing = db.c[s].placements > 0;
    i = 1; n = 0;
    do
    :: i <= db.seq && i <= k.position && n < LIMIT && !b.placing ->
       if
       :: i > k.lateThrough && visible(i, b.xmax, b.xip) && (!k.late || shown(db.xidOf[i], k.lateXmax, k.lateXip)) &&
          (in(k.xip, db.xidOf[i]) || BEYOND(k, i)) -> b.late = b.late | bit(i); b.id[i] = db.idOf[i]; b.through = i; n++
       :: else
       fi;
       i++
    :: else -> break
    od;
    b.piece = (n == LIMIT);
    i = k.position + 1; n = 0;
    do
    :: i <= db.seq && b.placing -> /* a new subscription begins at the end */
       b.position = (visible(i, b.xmax, b.xip) && i > b.position -> i : b.position);
       i++
    :: i <= db.seq && n < LIMIT && !b.placing && FRESH(b, k) ->
       if
       :: visible(i, b.xmax, b.xip) -> b.fresh = b.fresh | bit(i); b.id[i] = db.idOf[i]; b.position = i; n++
       :: else
       fi;
       i++
    :: else -> break
    od;
    /* Those behind a parked event of their aggregate. */
    i = 1;
    do
    :: i <= db.seq ->
       n = 1;
       do
       :: n < i && in(b.late | b.fresh, i) ->
          if
          :: in(db.c[s].parked, n) && aggregate[db.idOf[n]] == aggregate[db.idOf[i]] -> b.behind = b.behind | bit(i)
          :: else
          fi;
          n++
       :: else -> break
       od;
       i++
    :: else -> break
    od;
    i = 0; n = 0
  }
}

/* What consumers see. First publications of an aggregate's events come in order (I6), and nothing comes twice for no reason. */
inline publish(s, event) {
  d_step {
    if
    :: !in(published[s], event) ->
       n = event + 1;
       do
       :: n <= ids -> assert(!(in(published[s], n) && aggregate[n] == aggregate[event])); n++
       :: else -> break
       od;
       n = 0
    :: else -> assert(disturbed)
    fi;
    assert(!in(skipped[s], event));
    published[s] = published[s] | bit(event);
    again = again & ~bit(event)
  }
}

inline publishBatch(b, s) {
  failed = 0; i = 1;
  do
  :: i < SEQS ->
     atomic {
       if
       :: !in(b.late | b.fresh, i)
       :: in(b.late | b.fresh, i) && (BEHIND(b, i) || in(failed, aggregate[b.id[i]])) -> b.park = b.park | bit(i)
       :: else ->
          if
          :: publish(s, b.id[i])
          :: failures > 0 -> failures--; failed = failed | bit(aggregate[b.id[i]]); b.park = b.park | bit(i)
          fi
       fi;
       i++
     }
  :: else -> break
  od;
  atomic { i = 0; failed = 0 }
}

/* move is one statement, in a transaction whose id is younger than the reading. */
inline update(b, s) {
  d_step {
    if
    :: SAME_TOKEN(b, s) && SAME_INCARNATION(b) ->
       if
       :: b.piece && !b.placing ->
          if
          :: !db.c[s].late -> db.c[s].late = 1; db.c[s].lateXmax = b.xmax; db.c[s].lateXip = b.xip
          :: else
          fi;
          db.c[s].lateThrough = b.through
       :: else ->
          db.c[s].prior = PRIOR(b, s);
          if
          :: db.c[s].late && FIRST_PIECES ->
             db.c[s].xmax = db.c[s].lateXmax; db.c[s].xip = db.c[s].lateXip;
             db.c[s].late = 0; db.c[s].lateXmax = 0; db.c[s].lateXip = 0; db.c[s].lateThrough = 0
          :: else ->
             db.c[s].xmax = b.xmax; db.c[s].xip = b.xip;
             db.c[s].late = 0; db.c[s].lateXmax = 0; db.c[s].lateXip = 0; db.c[s].lateThrough = 0
          fi;
          db.c[s].position = (b.position > db.c[s].position -> b.position : db.c[s].position);
          if
          :: b.placing ->
             PLACED(s);
             if
             :: db.c[s].placements == 0 ->
                i = 1;
                do
                :: i <= db.seq ->
                   if
                   :: visible(i, b.xmax, b.xip) -> skipped[s] = skipped[s] | bit(db.idOf[i])
                   :: else
                   fi;
                   i++
                :: else -> break
                od;
                i = 0
             :: else
             fi
          :: else
          fi
       fi;
       db.c[s].parked = db.c[s].parked | b.park;
       newToken(s);
       moved = true
    :: else -> moved = false
    fi
  }
}

/* takeOver makes me the owner, whoever was it. That one may go on for as long as it likes. */
inline takeOver(s) {
  begin(x, inc);
  atomic {
    if
    :: inc == incarnation ->
       disturbed = disturbed || db.c[s].owner != 0;
       newToken(s);
       db.c[s].owner = me
    :: else
    fi;
    end(x, inc)
  }
}

/* The first parked events of aggregates. */
inline findHeads(s) {
  d_step {
    heads = 0; i = 1;
    do
    :: i <= db.seq ->
       if
       :: in(db.c[s].parked, i) ->
          n = 1;
          do
          :: n < i && !(in(db.c[s].parked, n) && aggregate[db.idOf[n]] == aggregate[db.idOf[i]]) -> n++
          :: else -> break
          od;
          heads = (n == i -> heads | bit(i) : heads)
       :: else
       fi;
       i++
    :: else -> break
    od;
    i = 0; n = 0
  }
}

proctype Relay(byte s; byte me) {
  byte x, inc, i, n, failed, heads, head;
  bool moved;
  batch b;
#ifdef READ_AHEAD
  batch ahead;
  cursor memory;
#endif

  takeOver(s);
  do
  :: atomic { /* a parked event */
       db.c[s].owner == me && db.c[s].parked != 0;
       findHeads(s);
       if
       :: in(heads, 1) -> head = 1
       :: in(heads, 2) -> head = 2
       :: in(heads, 3) -> head = 3
       :: in(heads, 4) -> head = 4
       :: in(heads, 5) -> head = 5
       :: in(heads, 6) -> head = 6
       fi;
       heads = 0; b.id[0] = db.idOf[head]
     };
     if
     :: publish(s, b.id[0]);
        begin(x, inc);
        atomic {
          if
          :: inc == incarnation && db.c[s].owner == me -> db.c[s].parked = db.c[s].parked & ~bit(head)
          :: else
          fi;
          end(x, inc); head = 0; b.id[0] = 0
        }
     :: atomic { failures > 0 -> failures--; head = 0; b.id[0] = 0 }
     fi
  :: atomic { /* the log */
       read(b, s, db.c[s]);
       if
       :: db.c[s].owner != me && relays[s] > 1 -> relays[s]--; goto over
       :: db.c[s].owner != me && relays[s] == 1 -> takeOver(s); goto next
       :: else
       fi;
       /* An idle look changes nothing. */
       if
       :: b.late == 0 && b.fresh == 0 && !b.placing && !db.c[s].late && db.c[s].prior == db.c[s].position ->
          if
          :: busy == 0 && db.running == 0 && db.c[s].parked == 0 -> goto done
          :: else -> goto next
          fi
       :: else
       fi
     };
#ifdef XID_BEFORE_S
     begin(x, inc);
     atomic { read(b, s, db.c[s]); b.xip = b.xip & ~bit(x) };
#endif
publishing:
     publishBatch(b, s);
     do
     ::
#ifndef XID_BEFORE_S
        begin(x, inc);
#endif
#ifdef READ_AHEAD
        /* The next reading, by the position in memory, before this one's move has committed. */
        atomic {
          if
          :: !b.piece && !b.placing && !db.c[s].late ->
             memory.position = b.position; memory.prior = b.shown; memory.xmax = b.xmax; memory.xip = b.xip;
             read(ahead, s, memory)
          :: else
          fi
        };
#endif
        atomic {
          if
          :: inc == incarnation -> update(b, s); end(x, inc); break
          :: else -> end(x, inc) /* no answer: again */
          fi
        }
     od;
#ifdef READ_AHEAD
     skip;
     d_step {
       if
       :: moved && (ahead.late | ahead.fresh) != 0 && !b.piece && !ahead.piece ->
          b.token = db.c[s].token; b.inc = ahead.inc; b.shown = ahead.shown; b.position = ahead.position; b.late = ahead.late; b.fresh = ahead.fresh;
          b.xmax = ahead.xmax; b.xip = ahead.xip; b.park = 0;
          i = 1;
          do
          :: i < SEQS -> b.id[i] = ahead.id[i]; i++
          :: else -> break
          od;
          i = 0
       :: else -> b.fresh = 0; b.late = 0
       fi;
       ahead.fresh = 0; ahead.late = 0
     };
     if
     :: (b.late | b.fresh) != 0 -> goto publishing
     :: else
     fi;
#endif
     atomic {
       if
       :: moved -> moved = false
       :: !moved && relays[s] > 1 && b.inc == incarnation -> relays[s]--; goto over
       :: else -> takeOver(s)
       fi
     };
next:
     skip
  od;
  goto over;
done:
  skip;
  d_step {
    i = 1;
    do
    :: i <= db.seq ->
       assert(!(in(db.rows, i) && in(db.committed, db.xidOf[i])) || in(published[s], db.idOf[i]) || in(skipped[s], db.idOf[i]));
       i++
    :: else -> break
    od;
    assert(again == 0)
  }
over:
  skip
}

#ifdef REPLAY
/* An operator sets a cursor back, and has everything behind that published again. With TOKENS_COUNT the subscription is dropped,
   and begins anew under its old name: a counter begins anew with it. */
#ifdef TOKENS_COUNT
#define replayToken(s) db.c[s].token = 1; db.c[s].owner = 0
#else
#define replayToken(s) newToken(s)
#endif
proctype Replay() {
  byte i;
  if
  :: d_step {
       db.c[0].position > 0 && !db.c[0].late ->
       disturbed = true;
       db.c[0].position = 0; db.c[0].prior = 0; db.c[0].parked = 0;
       replayToken(0);
       i = 1;
       do
       :: i <= db.seq -> again = again | (in(db.rows, i) && in(db.committed, db.xidOf[i]) && in(published[0], db.idOf[i]) -> bit(db.idOf[i]) : 0); i++
       :: else -> break
       od;
       i = 0
     }
  :: true
  fi;
  busy--
}
#endif

#ifdef RETENTION
/* Retention deletes what every cursor has passed and its snapshot shows, unless it is parked. */
proctype Retention() {
  byte i, limit, s;
  if
  :: d_step {
       limit = SEQS; s = 0;
       do
       :: s < SUBSCRIPTIONS -> limit = (db.c[s].position < limit -> db.c[s].position : limit); s++
       :: else -> break
       od;
       s = 0
     };
     d_step {
       i = 1;
       do
       :: i <= limit && i <= db.seq ->
          s = 0;
          do
          :: s < SUBSCRIPTIONS && in(db.rows, i) && in(db.committed, db.xidOf[i]) && !in(db.c[s].parked, i) && SHOWN(s, i) -> s++
          :: else -> break
          od;
          if
          :: s == SUBSCRIPTIONS ->
             s = 0;
             do
             :: s < SUBSCRIPTIONS -> assert(in(published[s], db.idOf[i]) || in(skipped[s], db.idOf[i])); s++
             :: else -> break
             od;
             db.rows = db.rows & ~bit(i)
          :: else
          fi;
          i++
       :: else -> break
       od;
       i = 0; s = 0; limit = 0
     }
  :: true
  fi;
  busy--
}
#endif

#ifdef FAILOVER
/* A replica has a state of the database, and takes over when commits that it lacks have been acknowledged. Numbers that were
   given out after that state are given out again. */
proctype FailOver() {
  database r;
  byte i;
  d_step {
    r.xid = db.xid; r.seq = db.seq; r.committed = db.committed; r.rows = db.rows;
    i = 1;
    do
    :: i < SEQS -> r.xidOf[i] = db.xidOf[i]; r.idOf[i] = db.idOf[i]; i++
    :: else -> break
    od;
    copyCursor(db.c[0], r.c[0])
  };
  if
  :: d_step {
       incarnation++; disturbed = true;
       db.xid = r.xid; db.seq = r.seq; db.committed = r.committed; db.rows = r.rows; db.running = 0; db.last = r.xid;
       i = 1;
       do
       :: i < SEQS -> db.xidOf[i] = r.xidOf[i]; db.idOf[i] = r.idOf[i]; i++
       :: else -> break
       od;
       copyCursor(r.c[0], db.c[0]);
       i = 0;
       do
       :: i < AGGREGATES -> locked[i] = false; i++
       :: else -> break
       od
     }
  :: true
  fi;
  busy--
}
#endif

init {
  atomic {
    byte k, s;
    do
    :: k < WRITERS -> busy++; run Writer(k); k++
    :: else -> break
    od;
    do
    :: s < SUBSCRIPTIONS ->
       db.c[s].xmax = 1; tokens++; db.c[s].token = tokens;
#ifdef AT_END
       db.c[s].placements = 2;
#endif
       k = 0;
       do
       :: k < RELAYS -> relays[s]++; k++; run Relay(s, k)
       :: else -> break
       od;
       s++
    :: else -> break
    od
#ifdef RETENTION
    ; busy++; run Retention()
#endif
#ifdef REPLAY
    ; busy++; run Replay()
#endif
#ifdef FAILOVER
    ; busy++; run FailOver()
#endif
  }
}
