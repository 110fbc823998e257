// Package console is a page for people: what was finalized, what waits, what died, and what to do about it. It is an
// http.Handler for a service's own admin site, under any path:
//
//	admin, err := console.New(pool, &console.Config{
//		User:    func(r *http.Request) string { return session.Of(r).Name },
//		Actions: true,
//	})
//	mux.Handle("/admin/endstate/", http.StripPrefix("/admin/endstate", admin))
//
// The same, as a program of its own, is endstate console.
//
// It has an overview of the subscriptions, the events, one aggregate's timeline ("why was this customer charged twice?"), the dead
// letters, what people did, and the duplicates. Behind each page is JSON, for those who ask with "Accept: application/json". The
// pages are rendered on the server, and work without the script that keeps them fresh.
//
// # Who may do what
//
// The handler asks nobody for a password: put it behind your site's authentication. It only reads, unless Config.Actions is set;
// then each action needs a reason, and is recorded with the name that Config.User returns. Config.Authorize decides on each page
// and action, by user and subscription. Forms have tokens, requests from other origins are refused
// (http.CrossOriginProtection), and the pages' Content-Security-Policy allows nothing but their own files. Payloads aren't read
// unless somebody asks for one, and never without Config.ShowPayloads.
//
// # What it costs
//
// Every statement goes by an index and looks at a bounded number of rows, but for those of the audit, which somebody must ask
// for; docs/console.md has the figures. All that look at the overview share one sample of the figures, which is taken
// while somebody looks, at most every ten seconds, and never for more than a hundredth of the time. Run has it taken all the time,
// so that the charts have the last hour when somebody comes.
package console
