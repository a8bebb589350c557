//! The RabbitMQ adapter against real nodes of both supported versions.

mod support;

use support::Node;

#[test]
fn a_vhost_of_ones_own_comes_and_goes() {
    for node in Node::all() {
        let vhost = node.vhost("guard");
        let path = format!("/api/vhosts/{}", vhost.name);
        assert_eq!(node.http("GET", &path, None).status, 200);
        drop(vhost);
        assert_eq!(node.http("GET", &path, None).status, 404);
    }
}
