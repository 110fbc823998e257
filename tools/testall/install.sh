# Installs the Debian packages that it is given, as root.
set -eu
export DEBIAN_FRONTEND=noninteractive
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" # where dpkg's own programs are

# The tests start servers of their own. Debian's packages would start theirs too, and PostgreSQL's would make a cluster:
# these two files, there for as long as this takes, say no.
policy=/usr/sbin/policy-rc.d
cluster=/etc/postgresql-common/createcluster.d/endstate-tests.conf
made=
trap 'rm -f $made' EXIT
trap 'exit 143' HUP INT TERM # after the command that runs
if [ ! -e $policy ]; then
	made="$made $policy"
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod 755 $policy
fi
case " $* " in *' postgresql '*)
	made="$made $cluster"
	mkdir -p ${cluster%/*}
	echo 'create_main_cluster = false' >$cluster
esac

apt='apt-get -q -o DPkg::Lock::Timeout=120'
$apt update || echo 'apt-get update failed: going on with the lists of packages that are here'
$apt install -y --no-install-recommends "$@" </dev/null
