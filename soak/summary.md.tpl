# Soak
{{with .Total}}
Written by `make soak`, which `soak/doc.go` describes. One run in rounds, with seed {{$.Seed}}: {{len $.Rounds}} rounds that took {{.Took}}, the last ended {{.Ended.Format "2006-01-02 15:04"}} UTC.

| what | how many |
| --- | --- |
| finalizations | {{.Finalized}} |
| calls | {{.Operations}} |
| events, each published to two or three brokers and applied by two to four consumers | {{.Events}} |
| faults that struck | {{.AllFaults}} |
| finalizations or events lost | 0 |
| finalizations, events or effects doubled | 0 |
| first publications and effects out of order | 0 |
| calls that fit no order | 0 |
| sessions, locks, parked events, dead letters, keys in Redis left over at a round's end | 0 |

A round that finds anything else ends the run, and is in no sum.

## Faults, by kind and place

| fault | times |
| --- | --- |
{{range $name, $n := .Faults}}| {{$name}} | {{$n}} |
{{end}}
## What calls were told

| result | calls |
| --- | --- |
{{range $name, $n := .Results}}| {{$name}} | {{$n}} |
{{end}}{{range $cause, $n := .Causes}}| {{$cause}} | {{$n}} |
{{end}}{{range $code, $n := .Codes}}| failed with SQLSTATE {{$code}} | {{$n}} |
{{end}}{{end}}
## Versions

| of | version |
| --- | --- |
{{range $name, $version := .Versions}}| {{$name}} | {{$version}} |
{{end}}
## Rounds

| round | finalizations | calls | events | faults | took |
| --- | --- | --- | --- | --- | --- |
{{range $i, $r := .Rounds}}| {{$i}} | {{.Finalized}} | {{.Operations}} | {{.Events}} | {{.AllFaults}} | {{.Took}} |
{{end}}
